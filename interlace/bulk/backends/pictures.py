"""Pictures as services send and take them: base64, data URLs, addresses; and PIL images."""

import base64
import binascii
import http.client
import io
import urllib.error
import urllib.request
from urllib.parse import quote, urljoin, urlsplit

from PIL import Image

from interlace.bulk.backends.errors import ApiError, fate_of

_MAX_BYTES = 200 * 2**20
_IN_ADDRESSES = "%/:=&?~#+!$,;'@()*[]"
_TRIES = 3  # at the download: the picture is made, and maybe paid, already


def decode(data: bytes) -> Image.Image:
    """Raises `ApiError` for what is not a whole picture."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ApiError(f"the answer holds no picture that can be read: {error}", "again") from error
    return image if image.mode in ("RGB", "RGBA", "L") else image.convert("RGB")


def from_base64(text: str) -> Image.Image:
    """Base64, or a data URL. Raises `ApiError`."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return decode(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise ApiError(f"the answer holds broken base64: {error}", "again") from error


def fetch(url: str, base_url: str, timeout_s: float) -> Image.Image:
    """The picture at `url`; a relative one is of `base_url`'s host. Sends no key. Raises `ApiError`."""
    if url.startswith("data:"):
        return from_base64(url)
    address = quote(urljoin(base_url, url), safe=_IN_ADDRESSES)
    host = urlsplit(address).hostname
    if urlsplit(address).scheme not in ("http", "https"):
        raise ApiError(f"the answer names a picture at {url[:80]!r}; expected an address on the web")
    for attempt in range(1, _TRIES + 1):
        try:
            with urllib.request.urlopen(address, timeout=timeout_s) as answer:
                return decode(answer.read(_MAX_BYTES))
        except urllib.error.HTTPError as error:
            if attempt == _TRIES or fate_of(error.code) != "again":
                raise ApiError(f"can't fetch the picture from {host}: HTTP {error.code}", "again") from error
        except (OSError, http.client.HTTPException, ApiError) as error:
            if attempt == _TRIES:
                raise ApiError(f"can't fetch the picture from {host}: {error}", "again") from error
    raise AssertionError("unreachable")


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
