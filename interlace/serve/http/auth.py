"""Who is asking: API keys, compared in constant time; without keys, addresses."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs

from starlette.types import Scope

from interlace.errors import InvalidRequestError
from interlace.serve.http.errors import ApiError
from interlace.serve.http.forwarded import path_of
from interlace.serve.settings import ServeSettings

_OPEN = ("/", "/health", "/liveness", "/version", "/metrics", "/favicon.ico", "/docs", "/openapi.json")
_OPEN_UNDER = ("/static/", "/files/")


class Keys:
    """The keys that open this server; empty: it is open. Only digests are kept."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def of(cls, settings: ServeSettings) -> "Keys":
        """From `api_key` and `api_key_file`. Raises `InvalidRequestError` for a file that can't be read or is empty."""
        return cls([*settings.api_key, *_from_file(settings.api_key_file)])

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client(self, scope: Scope) -> str:
        """A name for whoever asks: of their key, else of their address. Raises `ApiError` 401 for a wrong key."""
        address = scope["client"][0] if scope.get("client") else "local"
        if not self or is_open(path_of(scope)):
            return f"ip:{address}"
        key = _key(scope)
        if key is None:
            raise _refusal("no API key was sent; expected the header Authorization: Bearer KEY", "missing_api_key")
        digest = _digest(key)
        found = [hmac.compare_digest(digest, known) for known in self._digests]  # every one, whatever matched
        if not any(found):
            raise _refusal("the API key is not one of this server's", "invalid_api_key")
        return f"key:{digest.hex()[:12]}"


def is_open(path: str) -> bool:
    """Whether a path is for anybody: the page, its files, health, and results by their unguessable names."""
    return path in _OPEN or path.startswith(_OPEN_UNDER)


def _refusal(text: str, code: str) -> ApiError:
    return ApiError(401, text, code=code, headers={"WWW-Authenticate": "Bearer"})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _key(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        text = value.decode("latin-1").strip()
        if name == b"authorization" and text[:7].lower() == "bearer ":
            return text[7:].strip()
        if name == b"authorization" and text[:6].lower() == "basic ":
            return _password(text[6:])
        if name in (b"x-api-key", b"api-key", b"x-goog-api-key"):  # Azure's, Google's
            return text
    if path_of(scope).startswith("/v1beta/"):  # where Google's clients may put it
        return parse_qs(scope["query_string"].decode("latin-1")).get("key", [None])[0]
    return None


def _password(credentials: str) -> str | None:
    """Of A1111's clients, which send a name with it."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2] or None
    except ValueError:
        return None


def _from_file(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"can't read the key file {path}: {error}", "api_key_file") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InvalidRequestError(f"{path} holds no key; expected one a line", "api_key_file")
    return keys
