"""Pictures as services send and take them: base64, data URLs, addresses; and PIL images."""

import io
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from PIL import Image

from interlace.bulk.backends.errors import ServiceError
from interlace.errors import InvalidRequestError
from interlace.media.decode import PictureError, Taken, decode, from_base64
from interlace.media.fetch import FetchError, fetch, is_public
from interlace.retry import may_pass

_MAX_BYTES = 200 * 2**20
_MAX_REDIRECTS = 4
_IN_ADDRESSES = "%/:=&?~#+!$,;'@()*[]"
_TRIES = 3  # at the download: the picture is made, and maybe paid, already


def decoded(data: bytes) -> Image.Image:
    """Raises `ServiceError` for what is not a whole picture."""
    try:
        return decode(data, Taken(alpha="keep"))
    except PictureError as error:
        raise ServiceError(f"the answer holds no picture that can be read: {error}", "again") from error


def from_text(text: str) -> Image.Image:
    """Base64, or a data URL. Raises `ServiceError`."""
    try:
        return decoded(from_base64(text))
    except PictureError:
        raise
    except InvalidRequestError as error:
        raise ServiceError(f"the answer {error}", "again") from error


def fetched(url: str, base_url: str, timeout_s: float) -> Image.Image:
    """The picture at `url`; a relative one is of `base_url`'s host. Sends no key. Raises `ServiceError`.

    The service's own host may be anywhere; one on the web may name public addresses only.
    """
    if url[:5].lower() == "data:":
        return from_text(url)
    address = quote(urljoin(base_url, url), safe=_IN_ADDRESSES)
    host, own = urlsplit(address).hostname, urlsplit(base_url).hostname
    if urlsplit(address).scheme not in ("http", "https"):
        raise ServiceError(f"the answer names a picture at {url[:80]!r}; expected an address on the web")
    trusted = {name for name in (own, host if own and not is_public(own) else None) if name}
    limits: dict[str, Any] = {"max_bytes": _MAX_BYTES, "timeout_s": timeout_s, "max_redirects": _MAX_REDIRECTS}
    for attempt in range(1, _TRIES + 1):
        try:
            return decoded(fetch(address, trusted_hosts=trusted, **limits))
        except (OSError, ValueError, ServiceError) as error:
            status = error.status if isinstance(error, FetchError) else None
            if attempt == _TRIES or not (status is None or may_pass(status)):
                why = error if status is None else f"HTTP {status}"
                raise ServiceError(f"can't fetch the picture from {host}: {why}", "again") from error
    raise AssertionError("unreachable")


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
