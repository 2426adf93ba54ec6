"""Pictures from strangers: sizes are checked before pixels are decoded, formats are few, URLs lead outside only."""

import base64
import binascii
import io
import threading
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps

from interlace.serve.errors import ApiError, invalid
from interlace.serve.fetch import fetch
from interlace.serve.settings import ServeSettings

_decoding = threading.BoundedSemaphore(4)  # at once: each may take hundreds of megabytes for a moment
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def decode_image(data: bytes, settings: ServeSettings, param: str = "image", *, alpha: bool = False) -> Image.Image:
    """The first frame, upright, in RGB on white; with `alpha` in RGBA. Runs in a worker.

    What is larger than any picture that this server makes is scaled down to that, so that many fit into memory.

    Raises `ApiError` (400) for what is no picture of a known format or has more than `max_input_pixels`.
    """
    if not data:
        raise invalid(f"{param} is empty; expected a PNG, JPEG or WebP file", param)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are ours to judge
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image, settings, param)
                if alpha and "A" not in image.getbands() and "transparency" not in image.info:
                    text = f"{param} has no alpha channel ({image.mode}); expected a PNG, transparent where to edit"
                    raise invalid(text, param)
                with _decoding:
                    return _upright(image, alpha, settings.max_image_size)
    except ApiError:
        raise
    except Exception as error:  # decoders raise almost anything for broken files
        text = f"{param} is no readable picture ({_plain(error)}); expected a whole PNG, JPEG or WebP file"
        raise invalid(text, param, "invalid_image") from error


def _plain(error: Exception) -> str:
    text = str(error).split("<_io")[0].strip()
    return text if "cannot identify" not in text else "unknown format"


def _check_size(image: Image.Image, settings: ServeSettings, param: str) -> None:
    pixels = image.width * image.height
    if pixels > settings.max_input_pixels:
        text = f"{param} is {image.width}x{image.height}; expected at most {settings.max_input_pixels} pixels"
        raise invalid(f"{text}: scale it down", param, "image_too_large")
    if min(image.size) < 1 or max(image.size) > 200 * min(image.size):
        raise invalid(f"{param} is {image.width}x{image.height}; expected sides of at most 200:1", param)


def _upright(image: Image.Image, alpha: bool, most: int) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if max(image.size) > most:
        if image.mode == "P":
            image = image.convert("RGBA")
        image.thumbnail((most, most))
    rgba = image.convert("RGBA")
    if alpha:
        return rgba
    if "A" in image.getbands() or "transparency" in image.info:
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def image_bytes(value: Any, settings: ServeSettings, param: str = "image") -> bytes:
    """The bytes that a JSON value stands for: base64, a data URL, an http(s) URL, or {"image_url": ...}.

    May fetch: call it in a worker. Raises `ApiError` for anything else, and for URLs unless they are allowed.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, Mapping):
        if value.get("file_id") is not None:
            raise invalid(f"{param}.file_id: this server stores no files; send the picture as image_url", param)
        value = value.get("image_url", value.get("url", value.get("b64_json")))
        if isinstance(value, Mapping):
            value = value.get("url")
    if not isinstance(value, str) or not value:
        text = f"{param} is a {type(value).__name__}; expected base64, a data: URL or {{'image_url': ...}}"
        raise invalid(text, param)
    if value[:8].lower().startswith(("http://", "https://")):
        return _from_url(value, settings, param)
    return _from_base64(value, param)


def _from_url(url: str, settings: ServeSettings, param: str) -> bytes:
    if not settings.allow_image_urls:
        text = f"{param} is a URL; this server fetches none (--allow-image-urls): send base64 or a data: URL"
        raise invalid(text, param, "urls_not_allowed")
    try:
        return fetch(url, max_bytes=settings.max_body_bytes, timeout_s=settings.image_url_timeout_s)
    except (OSError, ValueError) as error:
        raise invalid(f"{param} could not be fetched: {error}", param, "url_not_fetched") from error


def _from_base64(text: str, param: str) -> bytes:
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise invalid(f"{param} is a data URL without base64; expected data:image/png;base64,...", param)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{param} is no base64 ({error}); expected the picture's bytes in base64", param) from error
