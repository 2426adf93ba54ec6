"""Whose picture an image would replace: nobody's picture may be overwritten unasked. Knows nothing of models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interlace.bulk.input.media import DataImage, ImageSource
from interlace.bulk.input.rows import Job
from interlace.bulk.output.index import Index
from interlace.errors import InvalidRequestError
from interlace.media.files import read_record

_MAX_SHOWN = 60  # characters of a prompt


def replaced_by(job: Job, folder: Path, images: Index, extension: str) -> str | None:
    """What `job` would replace, in a few words: a picture of another prompt, or a file that no run here has written.

    None where there is nothing, or a picture of the same prompt (and, in an edit, of the same pictures).
    """
    if job.name in images:
        try:
            return _difference(job, images.record(job.name))
        except OSError:  # another process writes the manifest anew
            return None
    path = folder / f"{job.name}.{extension}"
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except InvalidRequestError as error:
        if isinstance(error.__cause__, (OSError, ValueError)):  # no picture or film, or one that was cut off
            return None
        return f"{path.name}, which Interlace did not write,"
    return _difference(job, record)


def shortened(text: str) -> str:
    """A prompt in one line, in quotes, with an ellipsis where it is long."""
    words = " ".join(text.split())
    return f'"{words}"' if len(words) <= _MAX_SHOWN else f'"{words[: _MAX_SHOWN - 1]}…"'


def _difference(job: Job, record: Mapping[str, Any]) -> str | None:
    prompt = record.get("prompt")
    if prompt != job.prompt:
        return shortened(str(prompt))
    names, digests = record.get("input_images") or [], record.get("input_sha256") or []
    if len(names) == len(job.pictures) == len(digests) and all(map(_is_same, job.pictures, names, digests)):
        return None
    return f"{shortened(str(prompt))} of {', '.join(map(str, names)) or 'no picture'}"


def _is_same(source: ImageSource, name: str, digest: str) -> bool:
    return source.sha256 == digest if isinstance(source, DataImage) else source.name == name
