"""Where the files of a model are, and what the small ones say. Knows nothing of torch."""

import json
import os
from pathlib import Path
from typing import Any

from interlace.demo import MODELS
from interlace.errors import ModelLoadError


def model_folder(model: str) -> Path | None:
    """The directory of a model that is on disk, `~` expanded, or that comes with Interlace; None for a hub id."""
    if model in MODELS:
        return MODELS[model].path
    folder = Path(os.path.expanduser(model))  # noqa: PTH111  Path's own raises where there is no such user
    return folder if folder.is_dir() else None


def pipeline_class_of(model: str) -> str | None:
    """The pipeline class that a built-in name stands for; None for any other."""
    return MODELS[model].pipeline_class if model in MODELS else None


def read_settings(path: Path) -> dict[str, Any]:
    """A file's JSON object; an empty one where there is no such file. Raises `ModelLoadError` for anything else."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelLoadError(f"can't read {path}: {error}; expected a JSON object") from error
