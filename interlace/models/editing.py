"""The models that edit pictures by instruction: which pipeline runs them, with which arguments, how many pictures.

Found from a model's `model_index.json`, without loading the model. Knows nothing of torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.models.loading.errors import why_not_loaded
from interlace.models.places import model_folder, pipeline_class_of


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """How large an edit is for which no size was asked: shaped like the first picture, in multiples of some pixels."""

    multiple: int
    area: int  # pixels
    is_exact: bool  # scaled to the area; else only what is larger

    def size(self, given: tuple[int, int], defaults: Mapping[str, Any], limits: Mapping[str, int]) -> tuple[int, int]:
        """Width and height for a picture of the size `given`, with what a model says of itself."""
        multiple = max(self.multiple, limits.get("multiple_of", 1))
        low, high = limits.get("min_size", multiple), limits.get("max_size", 1 << 20)
        area = float(defaults.get("max_area", self.area))
        if self.is_exact:
            longest = max(1.0, min(high * high / area, area / (low * low)))  # as 1 to so much
            ratio = min(max(given[0] / given[1], 1 / longest), longest)
            sides = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        else:
            scale = min(1.0, high / max(given), (area / (given[0] * given[1])) ** 0.5)
            sides = given[0] * scale, given[1] * scale
        width, height = (min(max(round(side) // multiple * multiple, low), high) for side in sides)
        return width, height


@dataclass(frozen=True, kw_only=True)
class EditModel:
    """One type of model. `defaults` are arguments of its pipeline's call that hold where nobody says otherwise."""

    name: str
    pipeline: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    many: bool = False  # several pictures at once
    as_list: bool = False  # the pipeline wants a list, also of one picture
    size: SizeRule | None = None  # None: the pipeline follows the picture by itself

    @property
    def max_images(self) -> int | None:
        return None if self.many else 1


_MODELS = (
    EditModel(
        name="qwen",
        pipeline="QwenImageEditPlusPipeline",
        defaults={"num_inference_steps": 40, "true_cfg_scale": 4.0, "negative_prompt": " "},
        many=True,
    ),
    EditModel(
        name="qwen_singleimg",
        pipeline="QwenImageEditPipeline",
        defaults={"num_inference_steps": 50, "true_cfg_scale": 4.0, "negative_prompt": " "},
    ),
    EditModel(
        name="flux2",
        pipeline="Flux2Pipeline",
        defaults={"num_inference_steps": 28, "guidance_scale": 4.0},
        many=True,
    ),
    EditModel(
        name="flux2_klein",
        pipeline="Flux2KleinPipeline",
        defaults={"num_inference_steps": 4, "guidance_scale": 1.0},
        many=True,
    ),
    EditModel(
        name="flux1_kontext",
        pipeline="FluxKontextPipeline",
        defaults={"num_inference_steps": 28, "guidance_scale": 2.5},
        size=SizeRule(multiple=16, area=1024 * 1024, is_exact=True),
    ),
    EditModel(
        name="longcat",
        pipeline="LongCatImageEditPipeline",
        defaults={"num_inference_steps": 50, "guidance_scale": 4.5, "negative_prompt": ""},
    ),
    EditModel(
        name="glm_image",
        pipeline="GlmImagePipeline",
        defaults={"num_inference_steps": 50, "guidance_scale": 1.5},
        many=True,
        as_list=True,
        size=SizeRule(multiple=32, area=2048 * 2048, is_exact=False),
    ),
)
EDIT_MODELS: dict[str, EditModel] = {model.name: model for model in _MODELS}

_BY_PIPELINE = {model.pipeline: model for model in _MODELS}
# The undistilled FLUX.2 klein takes as many steps as any model.
_KLEIN_BASE = {"num_inference_steps": 50, "guidance_scale": 4.0}


def find_edit_model(
    model: str, model_type: str | None = None, *, revision: str | None = None, local_files_only: bool = False
) -> EditModel:
    """The type of a directory, a hub id or a built-in model; `model_type` overrides what the model itself says.

    It may also be any pipeline class of diffusers that takes an image and a prompt. Raises `InvalidRequestError` for a
    model that edits nothing, `ModelLoadError` for one that can't be read.
    """
    if model_type is not None:
        return _named(model_type)
    index = _index(model, revision, local_files_only)
    pipeline = str(index.get("_class_name"))
    found = _BY_PIPELINE.get(pipeline)
    if found is None:
        known = ", ".join(f"{one.pipeline} ({one.name})" for one in _MODELS)
        how = "choose an editing model, or say with --model-type how to run this one"
        raise InvalidRequestError(f"{model} is a {pipeline}; expected one of {known}: {how}", "model_type")
    if found.name == "flux2_klein" and not index.get("is_distilled", False):
        return replace(found, defaults=_KLEIN_BASE)
    return found


def _named(name: str) -> EditModel:
    found = EDIT_MODELS.get(name.strip().lower().replace("-", "_")) or _BY_PIPELINE.get(name)
    if found is not None:
        return found
    if name.endswith("Pipeline") and name.isidentifier():
        return EditModel(name=name, pipeline=name, size=SizeRule(multiple=16, area=2048 * 2048, is_exact=False))
    close = get_close_matches(name, EDIT_MODELS, n=1)
    hint = f"did you mean {close[0]}?" if close else "or the name of a pipeline class of diffusers"
    raise InvalidRequestError(f"the model type is {name!r}; known are {', '.join(EDIT_MODELS)}; {hint}", "model_type")


def _index(model: str, revision: str | None, local_files_only: bool) -> Mapping[str, Any]:
    if built_in := pipeline_class_of(model):
        return {"_class_name": built_in}
    if folder := model_folder(model):
        path = folder / "model_index.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ModelLoadError(f"can't read {path}: {why}; expected a directory in diffusers' format") from error
    return _hub_index(model, revision, local_files_only)


def _hub_index(model: str, revision: str | None, local_files_only: bool) -> Mapping[str, Any]:
    from diffusers import DiffusionPipeline

    try:
        return dict(DiffusionPipeline.load_config(model, revision=revision, local_files_only=local_files_only))
    except Exception as error:  # of the hub and the network: no common base
        raise ModelLoadError(why_not_loaded(model, error, "find")) from error
