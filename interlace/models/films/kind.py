"""What a model makes, known before it is loaded: by the class of its pipeline, which its small files name."""

import inspect
import os
from dataclasses import dataclass

from interlace.demo import MODELS
from interlace.errors import ModelLoadError
from interlace.models.films.lengths import Makes, makes
from interlace.models.places import read_index


@dataclass(frozen=True)
class ModelKind:
    """A class of pipeline of diffusers, and what comes out of it."""

    pipeline_class: str
    makes: Makes


def kind_of(model: str, *, revision: str | None = None, local_files_only: bool = False) -> ModelKind | None:
    """The kind of a directory, a built-in name or a hub id; None where its files don't say, or can't be had."""
    if model in MODELS:
        return ModelKind(MODELS[model].pipeline_class or "", "pictures")
    if os.path.isfile(os.path.expanduser(model)):  # noqa: PTH111, PTH113  Path's raise
        return None
    try:
        index = read_index(model, revision=revision, local_files_only=local_files_only)
    except ModelLoadError:
        return None
    import diffusers

    found = getattr(diffusers, index.pipeline_class, None)
    if not isinstance(found, type):
        return None
    return ModelKind(index.pipeline_class, makes_of(found))


def makes_of(pipeline_class: type) -> Makes:
    """What such a pipeline makes, by the parameters of its call; films also come from some whose length has another
    name than ours, or none."""
    by_length = makes(inspect.signature(pipeline_class.__call__).parameters)
    returns_frames = by_length == "pictures" and "frames=" in inspect.getsource(pipeline_class.__call__)
    return "film" if returns_frames else by_length
