"""What models on disk hold, as a digest, by which a run that goes on finds that a model changed under its name."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from interlace.errors import ModelLoadError
from interlace.models.places import model_folder

_WHOLE = 1 << 20  # a file of up to so many bytes is read whole, of a longer one
_SAMPLES, _SAMPLE = 256, 1 << 12  # so many pieces of so many bytes, evenly spread


def weights_digest(models: Iterable[str]) -> str | None:
    """A digest of the files of those of `models` that are directories or come with Interlace; None where none is.

    Hub ids are left to their revision. Raises `ModelLoadError` where a file can't be read.
    """
    digest, found = hashlib.sha256(), False
    for model in models:
        folder, single = model_folder(model), Path(os.path.expanduser(model))  # noqa: PTH111  Path's own raises
        if folder is None and not single.is_file():
            continue
        try:
            folder, files = (single.parent, [single]) if folder is None else (folder, _files(folder))
            for path in files:
                found = True
                digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
                for piece in _pieces(path):
                    digest.update(piece)
        except OSError as error:
            raise ModelLoadError(
                f"cannot read the model's files in {folder}: {error}; let this user read every file there"
            ) from error
    return digest.hexdigest()[:16] if found else None


def _files(folder: Path) -> list[Path]:
    """Those of the folder itself and of the components that a `model_index.json` names; texts for people left out."""
    try:
        components = dict(json.loads((folder / "model_index.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        components = {}  # a language model's, or one that won't load
    listings = [folder.iterdir(), *((folder / name).rglob("*") for name in components if (folder / name).is_dir())]
    return sorted(path for listing in listings for path in listing if path.is_file() and path.suffix != ".md")


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            yield file.read()
            return
        for i in range(_SAMPLES):
            file.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
            yield file.read(_SAMPLE)
