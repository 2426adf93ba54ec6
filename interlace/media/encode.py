"""Pictures as files in a named format, and what such a file says of how it was made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from PIL import Image

from interlace.errors import InvalidRequestError
from interlace.media.formats.pictures import IMAGE_DESCRIPTION, JSON_KEY
from interlace.media.formats.table import IMAGES, ImageFormat


class Encoder(Protocol):
    """What writes files of one kind: pictures (`Encoding`), films or sound (`formats.table.MediaFormat`)."""

    @property
    def extension(self) -> str: ...

    @property
    def label(self) -> str:
        """Tells one encoding from another, in manifests."""

    def encode(self, what: Any, record: Mapping[str, Any], /) -> bytes:
        """The file's bytes, `record` in them."""


@dataclass(frozen=True)
class Encoding:
    """A file format with its quality. Raises `InvalidRequestError` for a quality that the format doesn't have."""

    name: str = "png"  # one of IMAGES
    quality: int | None = None  # 1..100; None is the format's default

    def __post_init__(self) -> None:
        if self.name not in IMAGES:
            raise InvalidRequestError(
                f"the output format is {self.name!r}; expected one of {', '.join(IMAGES)}", "output_format"
            )
        if self.quality is None:
            return
        if self.format.quality is None:
            lossy = " or ".join(name for name, one in IMAGES.items() if one.quality is not None)
            message = f"{self.name} has no quality; leave out --output-quality, or take {lossy}"
            raise InvalidRequestError(message, "output_quality")
        if not 1 <= self.quality <= 100:
            message = f"the output quality is {self.quality}; expected 1 (small) to 100 (good)"
            raise InvalidRequestError(message, "output_quality")

    @property
    def format(self) -> ImageFormat:
        """What writes it."""
        return IMAGES[self.name]

    @property
    def extension(self) -> str:
        return self.format.extension

    @property
    def label(self) -> str:
        """Tells one encoding from another, in manifests."""
        quality = self.quality or self.format.quality
        return self.name if quality is None else f"{self.name}-{quality}"

    def encode(self, image: Image.Image, record: Mapping[str, Any]) -> bytes:
        """The file's bytes, `record` in them. Equal pictures and records give equal bytes."""
        return self.format.write(image, record, self.quality or self.format.quality)


def read_parameters(file: Path | BinaryIO) -> dict[str, Any]:
    """How an image that Interlace wrote was made. Raises `InvalidRequestError` where the file does not say."""
    try:
        with Image.open(file) as image:
            text = image.info.get(JSON_KEY) or image.getexif().get(IMAGE_DESCRIPTION) or image.info.get("comment")
        record = json.loads(text.decode() if isinstance(text, bytes) else str(text))
    except OSError as error:
        raise InvalidRequestError(f"can't read {file}: {error}") from error
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InvalidRequestError(f"{file} does not say how it was made; expected an image that Interlace wrote")
    return record
