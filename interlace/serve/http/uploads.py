"""Pictures that clients send: files, base64, data URLs and, where they are allowed, URLs that lead outside only."""

from collections.abc import Mapping

from PIL import Image

from interlace.errors import InvalidRequestError
from interlace.media.decode import COMMON, PictureError, Taken, decode, from_base64
from interlace.media.fetch import fetch
from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.settings import ServeSettings

_MAX_RATIO = 200


def decode_image(data: bytes, settings: ServeSettings, param: str = "image", *, alpha: bool = False) -> Image.Image:
    """The first frame, upright, in RGB on white; with `alpha` in RGBA. Runs in a worker.

    What is larger than any picture that this server makes is scaled down to that, so that many fit into memory.

    Raises `ApiError` (400) for what is no picture of a known format or has more than `max_input_pixels`.
    """
    taken = Taken(
        formats=COMMON,
        max_pixels=settings.max_input_pixels,
        max_side=settings.max_image_size,
        max_ratio=_MAX_RATIO,
        alpha="need" if alpha else "white",
    )
    try:
        return decode(data, taken)
    except PictureError as error:
        raise _refusal(error, param) from error


def _refusal(error: PictureError, param: str) -> ApiError:
    told = str(error).removeprefix("it ")
    match error.why:
        case "empty":
            return invalid(f"{param} is empty; expected a PNG, JPEG or WebP file", param)
        case "broken":
            text = f"{param} is no readable picture ({error}); expected a whole PNG, JPEG or WebP file"
            return invalid(text, param, "invalid_image")
        case "too_large":
            return invalid(f"{param} {told}", param, "image_too_large")
        case _:
            return invalid(f"{param} {told}", param)


def image_bytes(value: object, settings: ServeSettings, param: str = "image") -> bytes:
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
    try:
        return from_base64(value)
    except InvalidRequestError as error:
        raise invalid(f"{param} {error}", param) from error


def _from_url(url: str, settings: ServeSettings, param: str) -> bytes:
    if not settings.allow_image_urls:
        text = f"{param} is a URL; this server fetches none (--allow-image-urls): send base64 or a data: URL"
        raise invalid(text, param, "urls_not_allowed")
    try:
        return fetch(url, max_bytes=settings.max_body_bytes, timeout_s=settings.image_url_timeout_s)
    except (OSError, ValueError) as error:
        raise invalid(f"{param} could not be fetched: {error}", param, "url_not_fetched") from error
