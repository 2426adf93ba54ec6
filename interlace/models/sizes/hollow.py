"""A pipeline of diffusers without weights, from the small files of a model: what its call checks, it checks as ever.

Autoencoders are there in full but hold no memory, as pipelines ask them for their scales; of other parts there is the
configuration, and nothing where diffusers has no class for them.
"""

import copy
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.configuration_utils import FrozenDict

from interlace.models.places import read_settings


class HollowPart:
    """A component that was not made: what its configuration says."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config


def hollow_pipeline(folder: Path, pipeline_class: str | None = None) -> DiffusionPipeline:
    """The pipeline of a model directory, or one of another class over the same parts. Raises whatever diffusers does,
    `FileNotFoundError` where a part isn't there, `AttributeError` for a class that diffusers hasn't."""
    index = read_settings(folder / "model_index.json")
    kind = getattr(diffusers, str(pipeline_class or index.get("_class_name")))
    takes = inspect.signature(kind.__init__).parameters
    parts = {name: _part(folder / name, value) for name, value in index.items() if name in takes}
    parts |= {n: None for n, p in takes.items() if p.default is p.empty and n not in ("self", *parts)}
    return kind(**parts)


def hollowed(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """A loaded pipeline once more, with configurations in the place of its modules and of the pipelines in it. What is
    set on one of the two the other doesn't have."""
    hollow = copy.copy(pipeline)
    for name, part in vars(pipeline).items():
        if isinstance(part, (torch.nn.Module, DiffusionPipeline)):
            vars(hollow)[name] = HollowPart(getattr(part, "config", {}))
    return hollow


def _part(folder: Path, value: Any) -> Any:
    """What an entry of the index stands for: a component as [library, class], or a setting of the pipeline itself."""
    if not isinstance(value, list):
        return value
    kind = getattr(diffusers, str(value[-1]), None) if value[:1] == ["diffusers"] else None
    if kind is None:
        return None
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no {folder}")
    if issubclass(kind, SchedulerMixin):
        return kind.from_pretrained(folder)
    if not issubclass(kind, ModelMixin):
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if value[-1].startswith(("Autoencoder", "VQ", "AsymmetricAutoencoder", "ConsistencyDecoder")):
        with torch.device("meta"):
            return kind.from_config(config)
    known = inspect.signature(kind.__init__).parameters.items()
    return HollowPart(FrozenDict({name: p.default for name, p in known if p.default is not p.empty} | config))
