"""Where requests go: addresses with their keys, weights and limits, from flags or a YAML file. Sends nothing itself."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from interlace.checks import check_number
from interlace.errors import InvalidRequestError

_OPTIONS = {"weight": "weight", "rpm": "requests_per_minute", "workers": "max_workers", "key_env": "key_env"}
_KEYS = ("base_url", "weight", "requests_per_minute", "max_workers", "api_key", "key_env", "key_file")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One address of an API. `base_url` None is the SDK's own. `weight` is its share of the requests."""

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    weight: float = 1.0
    requests_per_minute: float | None = None
    max_workers: int | None = None  # requests at once

    def __post_init__(self) -> None:
        if self.base_url is not None and not _is_address(self.base_url):
            raise InvalidRequestError(
                f"the base URL is {self.base_url!r}; expected one such as https://example.com/v1", "base_url"
            )
        _check_positive("weight", self.weight)
        if self.requests_per_minute is not None:
            _check_positive("requests_per_minute", self.requests_per_minute)
        if self.max_workers is not None:
            check_number("max_workers", self.max_workers, 1, whole=True)

    @property
    def host(self) -> str | None:
        return urlsplit(self.base_url).hostname if self.base_url else None

    @property
    def shown(self) -> str:
        """Its address without what may be secret in it."""
        if self.base_url is None:
            return "the default endpoint"
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def parse_base_url(text: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`URL[,weight=2][,rpm=60][,workers=4][,key_env=NAME]` as an `Endpoint`'s fields.

    Raises `InvalidRequestError`.
    """
    url, *options = [part.strip() for part in text.split(",")]
    fields: dict[str, Any] = {"base_url": url.rstrip("/")}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in _OPTIONS or not equals:
            known = ", ".join(f"{known}=..." for known in _OPTIONS)
            raise InvalidRequestError(f"base-url has {option!r} after its address; expected any of {known}", "base_url")
        fields[_OPTIONS[name]] = value if name == "key_env" else _number(name, value)
    return _with_key(fields, environment)


def read_endpoints(path: Path, environment: Mapping[str, str] = os.environ) -> list[dict[str, Any]]:
    """The endpoints of a YAML file: a list, or a mapping with the list under `endpoints`. As `parse_base_url`.

    Raises `InvalidRequestError`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # What PyYAML quotes of a line could be a key.
        why = getattr(error, "strerror", None) or getattr(error, "problem", None) or "not UTF-8"
        raise InvalidRequestError(f"can't read the endpoints file {path}: {why}", "endpoints_file") from None
    entries = content.get("endpoints") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise InvalidRequestError(f"{path} has no list of endpoints; expected `endpoints: [{{base_url: ...}}]`")
    return [_entry(f"{path}, endpoint {number}", entry, environment) for number, entry in enumerate(entries, 1)]


def read_key(path: Path) -> str:
    """A key that is alone in its file. Raises `InvalidRequestError`."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise InvalidRequestError(f"can't read the key file {path}: {why}", "api_key_file") from None
    if not key or len(key.split()) != 1:
        raise InvalidRequestError(f"the key file {path} should hold one key and nothing else", "api_key_file")
    return key


def make_endpoints(
    entries: Sequence[Mapping[str, Any]], api_key: str | None, requests_per_minute: float | None
) -> list[Endpoint]:
    """Endpoints of `entries`; what one doesn't say is as given. Raises `InvalidRequestError`."""
    defaults = {"api_key": api_key, "requests_per_minute": requests_per_minute}
    return [Endpoint(**{**defaults, **entry}) for entry in entries or [{}]]


def _entry(where: str, entry: object, environment: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("base_url"), str):
        raise InvalidRequestError(f"{where} has no base_url", "endpoints_file")
    unknown = [str(name) for name in entry if name not in _KEYS]
    if unknown:
        raise InvalidRequestError(f"{where} has {', '.join(unknown)}; expected any of {', '.join(_KEYS)}")
    return _with_key({**entry, "base_url": entry["base_url"].rstrip("/")}, environment)


def _with_key(fields: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Replaces the place of a key by the key."""
    name, path = fields.pop("key_env", None), fields.pop("key_file", None)
    if name is not None:
        if not environment.get(str(name)):
            raise InvalidRequestError(f"the environment has no {name}, where the key should be", "base_url")
        fields["api_key"] = environment[str(name)].strip()
    elif path is not None:
        fields["api_key"] = read_key(Path(str(path)).expanduser())
    return fields


def _number(name: str, text: str) -> float | int:
    try:
        return int(text) if name == "workers" else float(text)
    except ValueError:
        raise InvalidRequestError(f"{name} of a base-url is {text!r}; expected a number", "base_url") from None


def _check_positive(name: str, value: object) -> None:
    check_number(name, value, 0)
    if not value:
        raise InvalidRequestError(f"{name} is {value!r}; expected more than 0", name)


def _is_address(text: object) -> bool:
    try:
        return isinstance(text, str) and urlsplit(text).scheme in ("http", "https") and bool(urlsplit(text).hostname)
    except ValueError:
        return False
