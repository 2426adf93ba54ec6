"""Where the files of a model are, and what the small ones say. Knows nothing of torch."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace.demo import MODELS
from interlace.errors import ModelLoadError
from interlace.models.loading.errors import why_not_loaded

_SMALL_FILES = ["model_index.json", "interlace.json", "config.json", "*/config.json", "*/scheduler_config.json"]


def model_folder(model: str) -> Path | None:
    """The directory of a model that is on disk, `~` expanded, or that comes with Interlace; None for a hub id.

    Raises `ModelLoadError` for an empty name, which would be the current directory.
    """
    if not model.strip():
        raise ModelLoadError("the model's name is empty; expected a directory, a file, a hub id or a built-in name")
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


@dataclass(frozen=True)
class ModelIndex:
    """What a `model_index.json` says, and where it lies: a directory or a hub id."""

    place: str
    pipeline_class: str
    components: Mapping[str, tuple[str, str]]  # name -> (library, class)

    def holds(self, component: str) -> bool:
        """Whether weights of a component are there too; taken for granted of a hub id."""
        folder = Path(self.place)
        return component in self.components and (not folder.is_dir() or (folder / component).is_dir())


def read_index(model: str, *, revision: str | None = None, local_files_only: bool = False) -> ModelIndex:
    """The index of a directory, a built-in name or a hub id. Raises `ModelLoadError`."""
    folder = model_folder(model)
    if folder is not None:
        values = read_settings(folder / "model_index.json")
        if "_class_name" not in values:
            raise ModelLoadError(f"{folder} holds no model_index.json; expected a directory in diffusers' format")
    else:
        values = _hub_index(model, revision, local_files_only)
    parts = {name: tuple(value) for name, value in values.items() if _is_component(value)}
    return ModelIndex(str(folder or model), pipeline_class_of(model) or str(values["_class_name"]), parts)


def _is_component(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _hub_index(model: str, revision: str | None, local_files_only: bool) -> dict[str, Any]:
    from diffusers import DiffusionPipeline

    try:
        return dict(DiffusionPipeline.load_config(model, revision=revision, local_files_only=local_files_only))
    except Exception as error:  # of the hub and the network: no common base
        raise ModelLoadError(why_not_loaded(model, error, "find")) from error


def small_files(model: str, *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a hub id's small files, fetched where they aren't here. Raises what the hub does."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(model, revision=revision, local_files_only=local_files_only, allow_patterns=_SMALL_FILES)
    )


def weights_on_disk(name: str) -> int:
    """Bytes of a local model's weight files; 0 where they aren't here."""
    folder = model_folder(name)
    if folder is None:
        return Path(name).stat().st_size if Path(name).is_file() else 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin"))
