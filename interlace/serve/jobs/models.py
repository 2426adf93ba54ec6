"""Which engine serves what: one that draws, and one that edits (the same weights or others)."""

import copy
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch

from interlace.async_omni import AsyncOmni
from interlace.errors import InvalidRequestError
from interlace.models.adapters.names import LoraNames
from interlace.models.editing import find_edit_model
from interlace.models.films.lengths import Makes
from interlace.models.loader import LoadedModel, as_editor
from interlace.models.sizes.door import LoadedSizeDoor
from interlace.models.text_limits import TOO_LONG, TextLimits
from interlace.omni import Omni
from interlace.request import SamplingParams
from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.settings import ServeSettings

_SEVERAL = ("QwenImageEditPlus", "Flux2", "OmniGen")  # pipelines whose `image` may be a list of references
_EDITS_OF = {"FluxPipeline": "FluxKontextPipeline"}  # what edits with the weights of what draws


def drawing_stages(omni: Omni) -> list[int]:
    """Which stages draw."""
    return [config.stage_id for config in omni.configs if config.stage_type == "diffusion"]


class Lane:
    """One model behind its engine: what it takes, what it defaults to."""

    def __init__(self, omni: AsyncOmni) -> None:
        self.omni: Omni = omni.omni
        self.model = self.omni.model
        self.name = self.model.name
        self.pipeline_name = type(self.model.pipeline).__name__
        self.parameters = self.omni.arguments.parameters
        self.makes: Makes = self.omni.arguments.makes
        self.fps = self.omni.arguments.fps(SamplingParams())  # of a film, where nobody says; None: it makes none
        self.stage = drawing_stages(self.omni)[-1]  # of several, the one that an order's fields are for
        self._tokenizer = copy.deepcopy(getattr(self.model.pipeline, "tokenizer", None))  # theirs is the engine's
        self._sizes = LoadedSizeDoor(self.model)
        self._limits = TextLimits(self.model.pipeline)
        self._lock = threading.Lock()
        self._facts: dict[str, Any] | None = None  # once it is closed

    def describe(self) -> dict[str, Any]:
        """As `Omni.describe`; of a model that is closed, what it was."""
        return self._facts or self.omni.describe()

    def release(self) -> None:
        """Closes the engine and lets go of the weights; what is known of the model stays."""
        self._facts = self.omni.describe()
        self.omni.close()
        self.model = replace(self.model, pipeline=None)
        del self.omni

    @property
    def modules(self) -> list[torch.nn.Module]:
        """What holds its weights in this process."""
        return [part for part in self.model.pipeline.components.values() if isinstance(part, torch.nn.Module)]

    @property
    def loras(self) -> LoraNames:
        """The adapters that requests may name."""
        drawing = self.omni.pipeline.drawing
        assert drawing is not None
        return drawing.loras

    def takes(self, name: str) -> bool:
        """Whether the pipeline has an argument of that name."""
        return name in self.parameters

    def default(self, name: str) -> Any:
        """What the pipeline gets when a request does not say."""
        own = self.parameters[name].default if name in self.parameters else None
        value = self.model.defaults.get(name, own)
        return None if value is inspect.Parameter.empty else value

    def count_tokens(self, text: str) -> int:
        """Text tokens as the model's first tokenizer counts; 0 where it has none."""
        if self._tokenizer is None:
            return 0
        with self._lock:
            return len(self._tokenizer(text)["input_ids"])

    def of_text(self, text: str | None, sampling: SamplingParams, *, strict: bool) -> list[str]:
        """What is to be said of a prompt that is longer than the model reads. Of several stages, another writes it.

        Raises `ApiError` instead where nothing that was sent may be ignored (`strict`).
        """
        length = sampling.max_sequence_length or self.default("max_sequence_length")
        cut = None if self.has_stages else self._limits.cut(text or "", {"max_sequence_length": length})
        if cut is not None and strict:
            raise invalid(TOO_LONG.format(**cut), "prompt", "prompt_too_long")
        return [] if cut is None else [TOO_LONG.format(**cut)]

    def area(self, width: int, height: int) -> dict[str, int]:
        """What a Kontext model needs to be told beside its size: it makes so many pixels, in the proportions asked."""
        return {"max_area": width * height} if self.is_kontext and self.takes("max_area") else {}

    def check_size(self, sampling: SamplingParams) -> None:
        """Raises `InvalidRequestError` for a size that the model can't make. Of several stages that draw, each has
        sizes of its own, and will say."""
        if len(drawing_stages(self.omni)) == 1:
            self._sizes.check(sampling)

    def makes_size(self, side: int) -> bool:
        """Whether squares with this side in pixels pass, as far as is known."""
        try:
            self.check_size(SamplingParams(width=side, height=side))
        except InvalidRequestError:
            return False
        return True

    @property
    def has_stages(self) -> bool:
        """Whether there are several."""
        return len(self.omni.configs) > 1

    @property
    def in_processes(self) -> bool:
        """Whether what draws runs in processes of its own."""
        return any(config.in_processes for config in self.omni.configs)

    @property
    def makes_video(self) -> bool:
        """Whether frames come out."""
        return self.makes == "film"

    @property
    def makes_sound_too(self) -> bool:
        """Whether a film comes with what is heard."""
        return any(hasattr(self.model.pipeline, part) for part in ("audio_vae", "sound_tokenizer"))

    @property
    def takes_image(self) -> bool:
        """Whether a request may come with pictures: whether the first stage that draws takes them."""
        return self.takes("image") and len(drawing_stages(self.omni)) == 1

    @property
    def is_kontext(self) -> bool:
        """Whether pictures laid side by side are how it takes several."""
        return "Kontext" in self.pipeline_name

    @property
    def takes_several(self) -> bool:
        """Whether an edit may be of several pictures."""
        return self.is_kontext or self.pipeline_name.startswith(_SEVERAL)

    @property
    def max_running(self) -> int:
        """Requests that run at once; further ones wait."""
        return self.omni.engine.config.max_num_seqs


@dataclass(frozen=True)
class Lanes:
    """All that one server serves."""

    draw: Lane
    edit: Lane | None
    settings: ServeSettings

    @property
    def all(self) -> list[Lane]:
        """Each engine once."""
        return [self.draw] if self.edit is None or self.edit is self.draw else [self.draw, self.edit]

    @property
    def names(self) -> list[str]:
        """What a request may give as `model`."""
        return list(dict.fromkeys([*(lane.name for lane in self.all), *self.settings.model_alias, *self.loras]))

    @property
    def loras(self) -> list[str]:
        """Adapters, which may be given as `model` too."""
        return self.draw.loras.offered

    def choose(self, model: str | None, *, edit: bool) -> Lane:
        """The lane for a request. Raises `ApiError`: 404 for a model that isn't here, 400 for one that can't do it."""
        if model and model not in self.names and not self.settings.accept_any_model:
            text = f"model {model!r} is not served here; expected {' or '.join(self.names)}, or none"
            text += "; a server that is started with --model-alias takes other names"
            raise ApiError(404, text, code="model_not_found", param="model")
        if not edit:
            if self.edit is not None and self.edit is not self.draw and model == self.edit.name:
                text = f"{model} edits pictures and none was sent; send one, or use {self.draw.name} to draw"
                raise invalid(text, "model", "picture_missing")
            return self.draw
        if self.edit is None:
            text = f"{self.draw.name} makes pictures from text alone; start the server with --edit-model NAME to edit"
            raise invalid(text, "model", "edits_not_served")
        return self.edit


def make_lanes(draw: AsyncOmni, edit: AsyncOmni | None, settings: ServeSettings) -> Lanes:
    """`edit` left out: the drawing model edits too, where its pipeline takes an image."""
    first = Lane(draw)
    second = Lane(edit) if edit is not None else first if first.takes_image else None
    return Lanes(first, second, settings)


def editor_of(name: str, load: Callable[..., LoadedModel], *, local_files_only: bool = False) -> LoadedModel:
    """The model that `--edit-model` names, with the defaults that the table of editing models has for its pipeline.

    A pipeline that isn't in the table runs with its own. Raises `ModelLoadError`.
    """
    try:
        kind = find_edit_model(name, local_files_only=local_files_only)
    except InvalidRequestError:
        return load(name)
    return as_editor(load(name, pipeline_class=kind.pipeline), kind)


def editing_pipeline(model: LoadedModel) -> str | None:
    """The class of pipeline that edits with the weights of `model`; None where the model has no defaults for it."""
    wanted = _EDITS_OF.get(type(model.pipeline).__name__)
    return wanted if wanted in model.all_defaults else None


def as_sibling(editor: AsyncOmni) -> AsyncOmni:
    """Another engine over files that draw too, under the name that what edits with a model's weights has."""
    drawing = editor.omni.pipeline.drawing
    assert drawing is not None
    drawing.model = replace(drawing.model, name=f"{drawing.model.name}-edit")
    return editor


def editing_sibling(model: LoadedModel) -> LoadedModel | None:
    """The pipeline that edits with the weights of `model`, sharing them; None where the model has no such defaults.

    Everything is copied but the weights: two engines, each in a thread of its own, intercept modules, set attention
    processors and tokenize without seeing each other. To be called before an engine is opened over `model`.
    """
    wanted = editing_pipeline(model)
    if wanted is None or getattr(model.pipeline, "_all_hooks", None):
        return None  # offloading moves weights about: two engines would do so under each other's feet
    chosen = getattr(diffusers, wanted)
    takes = inspect.signature(chosen.__init__).parameters
    parts = {name: _twin(part) for name, part in model.pipeline.components.items() if name in takes}
    name = f"{model.name}-edit"
    limits, about = model.limits, model.description
    return LoadedModel(
        name=name,
        pipeline=chosen(**parts),
        defaults=model.all_defaults[wanted],
        limits=limits,
        description=about,
        extras=replace(model.extras, controlnet=(), ip_adapter=()),
    )


def _twin(part: Any) -> Any:
    """A copy that shares its tensors, and nothing else."""
    tensors = [*part.parameters(), *part.buffers()] if isinstance(part, torch.nn.Module) else []
    return copy.deepcopy(part, {id(tensor): tensor for tensor in tensors})
