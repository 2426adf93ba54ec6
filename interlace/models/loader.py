"""Loads a pipeline from a directory, a hub id or a built-in name, with the call arguments that the model prefers.

A model directory may hold an `interlace.json`: {"defaults": {pipeline class: {argument: value}}, "limits": {...},
"description": "..."}.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from interlace.engine.accelerator import default_device
from interlace.engine.threads import release_team
from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.extras import NOTHING, Extras
from interlace.models.editing import EditModel
from interlace.models.embeddings import load_embeddings
from interlace.models.glm import mend_glm_image
from interlace.models.loading.components import load_component
from interlace.models.loading.devices import check_device
from interlace.models.loading.errors import why_not_loaded
from interlace.models.loading.meta import NoDetours
from interlace.models.loading.quantize import Quantization, check_for_file, pipeline_config, quantize_in_place
from interlace.models.loading.single_file import is_single_file, load_single_file
from interlace.models.optimize import Optimizations, chosen
from interlace.models.places import ModelIndex, model_folder, pipeline_class_of, read_index, read_settings
from interlace.models.quiet import quiet
from interlace.models.schedulers import make_scheduler


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline, ready to run, and what its `interlace.json` says: default call arguments and limits on sizes."""

    name: str
    pipeline: DiffusionPipeline
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    description: str = ""
    all_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by pipeline class, this one's too
    optimized: tuple[str, ...] = ()  # what was changed to make it faster or smaller, in words
    extras: Extras = NOTHING  # what was brought to it; its adapters are loaded with its engine

    @classmethod
    def around(cls, pipeline: DiffusionPipeline, extras: Extras = NOTHING) -> "LoadedModel":
        """A pipeline that somebody has already."""
        return cls(name=type(pipeline).__name__, pipeline=pipeline, extras=extras)


def load_model(
    model: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    pipeline_class: str | None = None,
    optimizations: Optimizations | None = None,
    extras: Extras = NOTHING,
) -> LoadedModel:
    """Load `model` (a directory, a hub id, a built-in name, or a checkpoint in one file) onto `device`.

    The pipeline class comes from `model_index.json`, or from a file's tensors, unless `pipeline_class` names another.
    `device` defaults to this machine's accelerator, `dtype` to bfloat16 there and float32 on the CPU. Raises
    `ModelLoadError`, or `InvalidRequestError` for options.
    """
    device = device or default_device()
    check_device(device)
    wanted = parse_dtype(dtype) or (torch.float32 if device.startswith("cpu") else torch.bfloat16)
    path = Path(os.path.expanduser(model))  # noqa: PTH111  Path's own raises where there is no such user
    if is_single_file(path):
        settings: dict[str, Any] = {}
        pipeline = _from_file(path, pipeline_class, wanted, device, extras, local_files_only)
    else:
        source, preset = _resolve(str(model))
        chosen = _pipeline_class(pipeline_class or preset)
        options = {"variant": variant, "revision": revision, "local_files_only": local_files_only}
        # The built-in models load in a moment; of others the libraries' own bars are worth seeing.
        with quiet() if preset else nullcontext():
            pipeline = _from_pretrained(chosen, source, wanted, device, extras, options)
        own = read_settings(Path(source) / "model_index.json").get("_class_name", "")
        settings = {**read_settings(Path(source) / "interlace.json"), "_class_name": own}
    if extras.scheduler is not None:
        pipeline.scheduler = make_scheduler(pipeline, extras.scheduler)
    load_embeddings(pipeline, extras.named("embedding"))
    if optimizations is None or not optimizations.offloads:
        pipeline = pipeline.to(device)
    optimized = () if optimizations is None else optimizations.apply(pipeline)
    release_team()  # loading is done: the engine's thread has the cores to itself
    return LoadedModel(
        name=str(model),
        pipeline=pipeline,
        defaults=defaults_for(pipeline, settings, settings.get("_class_name", "")),
        limits=settings.get("limits", {}),
        description=settings.get("description", ""),
        all_defaults=settings.get("defaults", {}),
        extras=extras,
        optimized=optimized,
    )


def _from_file(
    path: Path, pipeline_class: str | None, dtype: torch.dtype, device: str, extras: Extras, local: bool
) -> DiffusionPipeline:
    methods = [Quantization.parse(text) for text in extras.quantize]
    check_for_file(path.name, methods, device)
    pipeline = load_single_file(
        path,
        pipeline_class=pipeline_class,
        config_from=extras.config_from,
        components=_components(extras, lambda: _base_of_file(path, extras), dtype, local),
        dtype=dtype,
        local_files_only=local,
    )
    quantize_in_place(pipeline, methods)
    return pipeline


def _from_pretrained(
    chosen: type[DiffusionPipeline],
    source: str,
    dtype: torch.dtype,
    device: str,
    extras: Extras,
    options: dict[str, Any],
) -> DiffusionPipeline:
    local, revision = options["local_files_only"], options["revision"]
    index = cache(lambda: read_index(source, revision=revision, local_files_only=local))
    parts: dict[str, Any] = dict(_components(extras, index, dtype, local))
    if extras.quantize:
        methods = [Quantization.parse(text) for text in extras.quantize]
        parts["quantization_config"] = pipeline_config(methods, index(), dtype, device)
    try:
        with NoDetours():
            return chosen.from_pretrained(source, dtype=dtype, **options, **parts)
    except Exception as error:
        raise ModelLoadError(why_not_loaded(source, error)) from error


def _components(extras: Extras, index: Callable[[], ModelIndex], dtype: torch.dtype, local: bool) -> dict[str, Any]:
    named = extras.named("component")
    return {name: load_component(name, place, index(), dtype, local_files_only=local) for name, place in named.items()}


def _base_of_file(path: Path, extras: Extras) -> ModelIndex:
    if extras.config_from is None:
        text = f"component beside {path.name} needs --config-from DIR|ID, which says what its class is"
        raise InvalidRequestError(text, "component")
    return read_index(extras.config_from)


def defaults_for(pipeline: DiffusionPipeline, settings: Mapping[str, Any], own: str) -> dict[str, Any]:
    """What an `interlace.json` prefers for a pipeline: of its class, else what it takes too of the class `own`."""
    name, by_class = type(pipeline).__name__, settings.get("defaults", {})
    if name in by_class or not by_class:
        return dict(by_class.get(name, {}))
    takes = inspect.signature(pipeline.__call__).parameters
    base = by_class.get(own) or next(iter(by_class.values()))
    return {argument: value for argument, value in base.items() if argument in takes}


def load_editor(model: str | Path, edit: EditModel, *, batch_invariant: object = False, **options: Any) -> LoadedModel:
    """As `load_model`, by the pipeline of `edit` and with its defaults where the model has none of its own.

    `batch_invariant`: of the engine that it is for; without it the model is optimised as far as nobody said otherwise.
    """
    options["optimizations"] = chosen(options.get("optimizations"), batch_invariant=batch_invariant)
    return as_editor(load_model(model, pipeline_class=edit.pipeline, **options), edit)


def as_editor(loaded: LoadedModel, edit: EditModel) -> LoadedModel:
    """A loaded editing model with what the table of editing models says of its kind, where it says nothing itself."""
    mend_glm_image(loaded.pipeline)
    return replace(loaded, defaults={**edit.defaults, **loaded.defaults})


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """`"bfloat16"` or `"bf16"` as torch's dtype. Raises `InvalidRequestError` for a name that is none."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    names = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
    found = getattr(torch, names.get(dtype, dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InvalidRequestError(f"dtype is {dtype!r}; expected float32, bfloat16 or float16", "dtype")
    return found


def _resolve(model: str) -> tuple[str, str | None]:
    """Where the files are, and the pipeline class that a built-in name stands for."""
    folder, pipeline_class = model_folder(model), pipeline_class_of(model)
    if folder and pipeline_class is None and not (folder / "model_index.json").exists():
        raise ModelLoadError(f"{folder} holds no model_index.json; expected a directory in diffusers' format")
    return str(folder or model), pipeline_class


def _pipeline_class(name: str | None) -> type[DiffusionPipeline]:
    if name is None:
        return DiffusionPipeline
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, DiffusionPipeline)):
        raise InvalidRequestError(
            f"pipeline_class is {name!r}; expected a pipeline of diffusers {diffusers.__version__}"
        )
    return found
