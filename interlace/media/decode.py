"""Files of strangers as pictures: sizes are checked before pixels are decoded, formats are few.

One decoder for uploads, rows and services' answers; who asks says what it takes (`Taken`). Knows nothing of HTTP.
"""

import base64
import binascii
import io
import threading
import warnings
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps

from interlace.errors import InvalidRequestError

Alpha = Literal["drop", "white", "keep", "need"]  # in RGB as it is; on white; as RGBA; as RGBA, refused without
Why = Literal["empty", "broken", "too_large", "odd_sides", "no_alpha"]

# What cameras, browsers and datasets write. Formats that call other programs (EPS) are not among them.
COMMON = frozenset({"PNG", "JPEG", "WEBP", "GIF", "BMP"})
EVERY = COMMON | {"MPO", "AVIF", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "ICO", "QOI"}
_decoding = threading.BoundedSemaphore(4)  # at once: each may take hundreds of megabytes for a moment
# Sizes are judged here, on many threads; warnings can't be turned off for a moment there.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Which pictures are taken, and what becomes of them. Sides are in pixels."""

    formats: frozenset[str] = EVERY
    max_pixels: int = 1 << 27  # some 11,600 by 11,600; more is a mistake or an attack
    max_side: int | None = None  # what is larger is scaled down to it
    max_ratio: float | None = None  # of the longer side to the shorter
    alpha: Alpha = "drop"


class PictureError(InvalidRequestError):
    """A file that is no picture, or none that is taken. `why` is for programs, the message says what is wrong."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why


def decode(data: bytes, taken: Taken) -> Image.Image:
    """The first frame, upright. Raises `PictureError`."""
    if not data:
        raise PictureError("empty", "it is empty")
    try:
        Image.init()
        with Image.open(io.BytesIO(data), formats=sorted(taken.formats & set(Image.OPEN))) as image:
            _check(image, taken)
            with _decoding:
                return _upright(image, taken)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:  # its header alone says so
        raise PictureError("too_large", f"{error}; expected at most {taken.max_pixels} pixels") from error
    except Exception as error:  # decoders raise almost anything for broken files
        why = str(error).split("<_io")[0].strip() or type(error).__name__
        raise PictureError("broken", "its format is not known" if "cannot identify" in why else why) from error


def from_base64(text: str) -> bytes:
    """Base64 or a data URL as bytes. Raises `InvalidRequestError`."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidRequestError(f"is a data URL that begins {head[:40]!r}; expected data:image/png;base64,...")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"is not base64 ({error}); expected the picture's bytes in base64") from error


def _check(image: Image.Image, taken: Taken) -> None:
    width, height = image.size
    if width * height > taken.max_pixels:
        text = f"it is {width}x{height}; expected at most {taken.max_pixels} pixels: scale it down"
        raise PictureError("too_large", text)
    if min(image.size) < 1 or (taken.max_ratio is not None and max(image.size) > taken.max_ratio * min(image.size)):
        raise PictureError("odd_sides", f"it is {width}x{height}; expected sides of at most {taken.max_ratio:g}:1")
    if taken.alpha == "need" and not _has_alpha(image):
        text = f"it has no alpha channel ({image.mode}); expected a PNG, transparent where to edit"
        raise PictureError("no_alpha", text)


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def _upright(image: Image.Image, taken: Taken) -> Image.Image:
    has_alpha = _has_alpha(image)
    image.load()
    turned = ImageOps.exif_transpose(image)
    if taken.max_side is not None and max(turned.size) > taken.max_side:
        turned = turned.convert("RGBA") if turned.mode == "P" else turned
        turned.thumbnail((taken.max_side, taken.max_side))
    if taken.alpha in ("keep", "need"):
        return turned.convert("RGBA" if has_alpha or taken.alpha == "need" else "RGB")
    if taken.alpha == "white" and has_alpha:
        rgba = turned.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return turned.convert("RGB")
