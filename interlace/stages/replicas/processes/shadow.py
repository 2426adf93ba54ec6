"""What a stage draws with, without its weights: for processes that check requests and never draw."""

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlace.models.loader import LoadedModel


def without_weights(stage: object) -> "LoadedModel | None":
    """The model of a stage that draws, of its pipeline's modules the configurations alone: class, defaults, limits,
    tokenizers, processors. None for a stage that doesn't draw.
    """
    model: LoadedModel | None = getattr(stage, "model", None)
    if model is None or not hasattr(model, "pipeline"):
        return None
    from interlace.models.sizes.hollow import hollowed

    pipeline = hollowed(model.pipeline)
    for name, value in list(vars(pipeline).items()):
        if not _can_travel(value):
            pipeline.__dict__[name] = None
    return replace(model, pipeline=pipeline)


def _can_travel(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
