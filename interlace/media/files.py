"""Films and sound to files by their names' endings, for people with a Python object in hand; and what files say."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.media.clip import Clip, Frames, Sound
from interlace.media.encode import read_parameters
from interlace.media.formats.table import FILMS, SOUNDS


def clips_of(
    films: Sequence[Any], fps: float | None, sounds: Sequence[Any], rate: int | None
) -> list[Clip] | list[Sound]:
    """What an output holds: films with what is heard beside them, or else sounds; none where it holds pictures."""
    heard = [Sound.of(samples, rate or 44_100) for samples in sounds]
    if films:
        beside = heard if len(heard) == len(films) else [None] * len(films)
        return [Clip(Frames.of(film), fps or 16.0, sound) for film, sound in zip(films, beside, strict=True)]
    return heard


def save_clips(clips: Sequence[Clip | Sound], path: str | Path, record: Mapping[str, Any]) -> list[Path]:
    """Writes films or sounds to `path`; of several, the second is `name-1.mp4` and so on. Makes the folder.

    Raises `InvalidRequestError` for a name that says no format of theirs.
    """
    path = Path(path)
    table: Mapping[str, Any] = FILMS if isinstance(clips[0], Clip) else SOUNDS
    form = next((one for one in table.values() if one.extension == path.suffix[1:].lower()), None)
    if form is None:
        known = ", ".join(f".{one.extension}" for one in table.values())
        raise InvalidRequestError(f"{path} says no format of films or sound; expected one of {known}", "path")
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path if i == 0 else path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(len(clips))]
    for clip, one in zip(clips, paths, strict=True):
        one.write_bytes(form.encode(clip, {name: value for name, value in record.items() if value is not None}))
    return paths


def read_record(path: Path) -> dict[str, Any]:
    """How a picture, film or sound that Interlace wrote was made.

    Raises `InvalidRequestError` where the file doesn't say; from an OSError or ValueError where it can't be read.
    """
    ending = path.suffix.lower()
    if ending not in _READ:
        return read_parameters(path)
    try:
        text = _READ[ending](path)
    except Exception as error:  # decoders raise almost anything for broken files
        raise InvalidRequestError(f"can't read {path}: {error}") from (
            error if isinstance(error, (OSError, ValueError)) else OSError(str(error))
        )
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InvalidRequestError(f"{path} does not say how it was made; expected a file that Interlace wrote")
    return record


def _comment(path: Path) -> str:
    import av

    with av.open(str(path), "r") as container:
        texts = {**container.metadata, **container.streams[0].metadata}
    return next((text for name, text in texts.items() if name.lower() == "comment"), "null")


def _in_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as frames:
        return frames.read("film.json").decode()


_READ = {
    ".zip": _in_zip,
    **dict.fromkeys((".mp4", ".webm", ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aac"), _comment),
}
