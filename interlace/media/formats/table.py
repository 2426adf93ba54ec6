"""The tables of formats: of pictures, films and sound. What each is called, what it is to a browser, what writes it.

A new format is a function in a file of its own, `(clip or sound, record) -> bytes`, of pictures
`(image, record, quality) -> bytes`, and a line here: the server, bulk runs and `Output.save` then know it.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image

from interlace.errors import InvalidRequestError
from interlace.media.clip import Clip, Sound
from interlace.media.formats import animations, containers, frames_zip, pictures, sounds

What = TypeVar("What", Clip, Sound)
Record = Mapping[str, Any]  # how it was made: prompt, parameters


@dataclass(frozen=True)
class MediaFormat(Generic[What]):
    """A file format. `package` is what writes it beyond the core, to be had with the extra `media`."""

    name: str
    extension: str
    media_type: str
    write: Callable[[What, Record], bytes]
    package: str | None = None

    @property
    def label(self) -> str:
        """Tells one encoding from another, in manifests."""
        return self.name

    def check(self) -> None:
        """Raises `InvalidRequestError` where the package is missing, with the line that installs it."""
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            wanted = {"av": "PyAV", "soundfile": "soundfile"}.get(self.package, self.package)
            text = f'{self.name} is written by {wanted}, which is not installed: pip install "interlace[media]"'
            raise InvalidRequestError(text, "output_format")

    def encode(self, what: What, record: Record) -> bytes:
        """The file's bytes, `record` in them where the format has a place for it. Raises as `check` does."""
        self.check()
        return self.write(what, record)


@dataclass(frozen=True)
class ImageFormat:
    """A file format of pictures. `quality`: the one that is taken where none is said; None where there is none."""

    extension: str
    media_type: str
    write: Callable[[Image.Image, Record, int | None], bytes]
    quality: int | None = None


IMAGES: dict[str, ImageFormat] = {
    "png": ImageFormat("png", "image/png", pictures.png),
    "jpeg": ImageFormat("jpg", "image/jpeg", pictures.jpeg, quality=95),
    "webp": ImageFormat("webp", "image/webp", pictures.webp, quality=90),
}


def _by_name(*formats: MediaFormat[What]) -> dict[str, MediaFormat[What]]:
    return {one.name: one for one in formats}


FILMS: dict[str, MediaFormat[Clip]] = _by_name(
    MediaFormat("mp4", "mp4", "video/mp4", containers.mp4, "av"),
    MediaFormat("webm", "webm", "video/webm", containers.webm, "av"),
    MediaFormat("webp", "webp", "image/webp", animations.webp),
    MediaFormat("gif", "gif", "image/gif", animations.gif),
    MediaFormat("frames", "zip", "application/zip", frames_zip.png_frames),
)
SOUNDS: dict[str, MediaFormat[Sound]] = _by_name(
    MediaFormat("wav", "wav", "audio/wav", sounds.wav),
    MediaFormat("flac", "flac", "audio/flac", sounds.flac, "soundfile"),
    MediaFormat("ogg", "ogg", "audio/ogg", sounds.ogg, "soundfile"),
    MediaFormat("opus", "opus", "audio/ogg", sounds.opus, "soundfile"),
    MediaFormat("mp3", "mp3", "audio/mpeg", containers.mp3, "av"),
    MediaFormat("aac", "aac", "audio/aac", containers.aac, "av"),
    MediaFormat("pcm", "pcm", "audio/pcm", sounds.pcm),
)


def film_format(name: str) -> MediaFormat[Clip]:
    """A format of films that can be written here. Raises `InvalidRequestError` for any other."""
    return _find(name, FILMS, "films")


def sound_format(name: str) -> MediaFormat[Sound]:
    """A format of sound that can be written here. Raises `InvalidRequestError` for any other."""
    return _find(name, SOUNDS, "sound")


def best_film() -> MediaFormat[Clip]:
    """What a film is written in where nobody said: MP4, and animated WebP where PyAV isn't installed."""
    return FILMS["mp4" if importlib.util.find_spec("av") else "webp"]


def _find(name: str, table: Mapping[str, MediaFormat[What]], what: str) -> MediaFormat[What]:
    if name not in table:
        text = f"the output format is {name!r}; expected one of {', '.join(table)} for {what}"
        raise InvalidRequestError(text, "output_format")
    table[name].check()
    return table[name]
