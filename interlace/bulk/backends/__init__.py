"""Services that make images, as generators of bulk runs."""

import os
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from interlace.bulk.backends.endpoints import Endpoint, make_endpoints, parse_base_url, read_endpoints, read_key
from interlace.bulk.backends.table import BACKENDS, Backend
from interlace.checks import check_choice
from interlace.errors import InvalidRequestError

if TYPE_CHECKING:
    from interlace.bulk.backends.pool import ApiGenerator
    from interlace.bulk.backends.service import ImageService
    from interlace.bulk.backends.settings import ApiSettings


def open_api_generator(backend: str, model_name: str, flags: "ApiSettings") -> "ApiGenerator":
    """A generator that asks a service. Sends nothing yet.

    Raises `InvalidRequestError` for flags that can't be used, a key that is missing, or an SDK that isn't installed.
    """
    from interlace.bulk.backends.pool import ApiGenerator

    endpoints = find_endpoints(backend, flags)
    return ApiGenerator(
        _service(backend, model_name, endpoints, flags.api_extras),
        endpoints,
        num_workers=flags.num_workers,
        max_retries=flags.max_retries,
        max_requests=flags.max_requests,
        request_timeout_s=flags.request_timeout_s,
        facts={"backend": backend},
    )


def find_endpoints(backend: str, flags: "ApiSettings") -> list[Endpoint]:
    """Where requests go, with keys. Raises `InvalidRequestError`."""
    check_choice("backend", backend, tuple(BACKENDS))
    own = BACKENDS[backend]
    entries = [parse_base_url(text) for text in flags.base_url]
    if flags.endpoints_file is not None:
        entries += read_endpoints(flags.endpoints_file)
    usual = os.environ.get(own.base_url_name) if own.base_url_name else None
    if not entries and usual:
        entries = [{"base_url": usual.rstrip("/")}]
    key = read_key(flags.api_key_file) if flags.api_key_file is not None else flags.api_key
    key = key or next((os.environ[name] for name in own.key_names if os.environ.get(name)), None)
    endpoints = make_endpoints(entries, key, flags.requests_per_minute)
    if most := own.max_workers:
        endpoints = [replace(one, max_workers=min(one.max_workers or most, most)) for one in endpoints]
    if any(_lacks_key(own, endpoint) for endpoint in endpoints):
        text = f"the backend {backend} needs a key: set {own.key_names[0]}, or give --api-key-file"
        raise InvalidRequestError(text, "api_key")
    return endpoints


def _lacks_key(own: Backend, endpoint: Endpoint) -> bool:
    has_login = own.keyless is not None and own.keyless in os.environ
    return bool(own.key_names) and not has_login and endpoint.api_key is None and _is_official(own, endpoint)


def _is_official(own: Backend, endpoint: Endpoint) -> bool:
    return endpoint.host is None or endpoint.host in own.hosts


def _service(backend: str, model_name: str, endpoints: list[Endpoint], extras: bool | None) -> "ImageService":
    own = BACKENDS[backend]
    extras = not any(_is_official(own, endpoint) for endpoint in endpoints) if extras is None else extras
    module, _, name = own.service.partition(":")
    try:
        made: ImageService = getattr(import_module(module), name)(model_name, extras=extras)
    except ImportError as error:
        raise InvalidRequestError(
            f"the backend {backend} needs a package that is missing ({error.name}): pip install 'interlace[api]'",
            "backend",
        ) from error
    return made
