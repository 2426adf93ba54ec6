"""Opens an omni-modal model by name: which family it is, its weights on their devices, voices and processor."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from interlace.engine.accelerator import default_device
from interlace.engine.threads import release_team
from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.models.loader import parse_dtype
from interlace.models.places import model_folder
from interlace.stages.omni.config import OmniEngineArgs
from interlace.stages.omni.families import FAMILIES, architecture_of
from interlace.stages.omni.parts import Family
from interlace.stages.omni.reading.films import with_films

_OTHER = ("AutoModelForMultimodalLM", "interlace.stages.omni.models.seeing:Seeing")


@dataclass(frozen=True)
class LoadedOmni:
    """A model's parts by name, each with a family a replica, whose other parts are the first ones; its processor."""

    families: dict[str, list[Family]]
    processor: Any

    @property
    def first(self) -> Family:
        return self.families["thinker"][0]


def load_omni(name: str, args: OmniEngineArgs, device: str | None) -> LoadedOmni:
    """A directory or hub id as its parts on their devices, and its processor.

    Raises `ModelLoadError`, or `InvalidRequestError` for parts that it lacks.
    """
    source = str(model_folder(name) or name)
    architecture = architecture_of(name, args.revision, local_files_only=args.local_files_only)
    place = device or default_device()
    dtype = parse_dtype(args.dtype) or (torch.float32 if place == "cpu" else torch.bfloat16)
    options = {"revision": args.revision, "local_files_only": args.local_files_only}
    model_class, family = FAMILIES.get(architecture or "", _OTHER)
    try:
        model = getattr(transformers, model_class).from_pretrained(source, dtype=dtype, **options).eval()
        processor = with_films(source, options)
    except Exception as error:
        hint = "expected a directory or hub id of Qwen2.5-Omni, Qwen3-Omni, or a language model with its processor"
        raise ModelLoadError(f"cannot load model {name!r}: {error}; {hint}") from error
    release_team()  # loading is done: the engines' threads have the cores to themselves
    speaks = hasattr(model, "thinker") and model.has_talker
    if not speaks and (lacking := args.parts.keys() - {"thinker"}):
        raise InvalidRequestError(f"{name} has no {' and no '.join(sorted(lacking))}; expected thinker alone", "parts")
    if not hasattr(model, "thinker"):
        model.to(args.part("thinker").devices(place)[0])
        return LoadedOmni({"thinker": [_family(family)(model)]}, processor)
    return LoadedOmni(_placed(model, _family(family), args, place), processor)


def _family(path: str) -> Callable[[Any], Family]:
    module, name = path.split(":")
    import importlib

    found: Callable[[Any], Family] = getattr(importlib.import_module(module), name)
    return found


def _placed(model: Any, family: Callable[[Any], Family], args: OmniEngineArgs, place: str) -> dict[str, list[Family]]:
    """Each replica of each part on its device; what makes sound is float32, as the stock model wants it."""
    names = {"thinker": "thinker"}
    if model.has_talker:
        names |= {"talker": "talker", "code2wav": "token2wav" if hasattr(model, "token2wav") else "code2wav"}
        getattr(model, names["code2wav"]).float()
    for part, name in names.items():
        getattr(model, name).to(args.part(part).devices(place)[0])
    whole = family(model)
    return {
        part: [whole, *(family(_with_copy(model, name, one)) for one in args.part(part).devices(place)[1:])]
        for part, name in names.items()
    }


def _with_copy(model: Any, name: str, device: str) -> Any:
    """`model` with a copy of one part, on another device or on the same."""
    view = copy.copy(model)
    view.__dict__["_modules"] = {**model._modules, name: copy.deepcopy(model._modules[name]).to(device)}
    return view
