"""What a stage draws with, without its weights: for processes that check requests and never draw."""

import copy
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlace.models.loader import LoadedModel


def without_weights(stage: object) -> "LoadedModel | None":
    """The model of a stage that draws, its pipeline without modules: class, defaults, limits, tokenizers, processors.

    None for a stage that doesn't draw.
    """
    model: LoadedModel | None = getattr(stage, "model", None)
    if model is None or not hasattr(model, "pipeline"):
        return None
    pipeline = copy.copy(model.pipeline)
    for name, value in list(vars(pipeline).items()):
        if _holds_weights(value) or not _can_travel(value):
            pipeline.__dict__[name] = None
    return replace(model, pipeline=pipeline)


def _holds_weights(value: Any) -> bool:
    import torch
    from diffusers import DiffusionPipeline

    return isinstance(value, (torch.nn.Module, DiffusionPipeline))


def _can_travel(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
