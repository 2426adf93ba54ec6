"""Where the files of a model are. Knows nothing of torch."""

import os
from pathlib import Path

from interlace.demo import MODELS


def model_folder(model: str) -> Path | None:
    """The directory of a model that is on disk, `~` expanded, or that comes with Interlace; None for a hub id."""
    if model in MODELS:
        return MODELS[model].path
    folder = Path(os.path.expanduser(model))  # noqa: PTH111  Path's own raises where there is no such user
    return folder if folder.is_dir() else None


def pipeline_class_of(model: str) -> str | None:
    """The pipeline class that a built-in name stands for; None for any other."""
    return MODELS[model].pipeline_class if model in MODELS else None
