"""Services that make images, as generators of bulk runs."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from interlace.bulk.backends.endpoints import Endpoint, make_endpoints, parse_base_url, read_endpoints, read_key
from interlace.checks import check_choice
from interlace.errors import InvalidRequestError

if TYPE_CHECKING:
    from interlace.bulk.backends.flags import ApiFlags
    from interlace.bulk.backends.pool import ApiGenerator
    from interlace.bulk.backends.service import ImageService

API_BACKENDS = ("openai", "google_genai")

_KEY_NAMES = {"openai": ("OPENAI_API_KEY",), "google_genai": ("GEMINI_API_KEY", "GOOGLE_API_KEY")}
_OPENAI_HOST = "api.openai.com"
_GOOGLE_CONNECTIONS = 100  # of one client at once; further requests would wait inside of it


def open_api_generator(backend: str, model_name: str, flags: "ApiFlags") -> "ApiGenerator":
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


def find_endpoints(backend: str, flags: "ApiFlags") -> list[Endpoint]:
    """Where requests go, with keys. Raises `InvalidRequestError`."""
    check_choice("backend", backend, API_BACKENDS)
    entries = [parse_base_url(text) for text in flags.base_url]
    if flags.endpoints_file is not None:
        entries += read_endpoints(flags.endpoints_file)
    usual = os.environ.get("OPENAI_BASE_URL")
    if backend == "openai" and not entries and usual:
        entries = [{"base_url": usual.rstrip("/")}]
    key = read_key(flags.api_key_file) if flags.api_key_file is not None else flags.api_key
    key = key or next((os.environ[name] for name in _KEY_NAMES[backend] if os.environ.get(name)), None)
    endpoints = make_endpoints(entries, key, flags.requests_per_minute)
    if backend == "google_genai":
        most = [min(endpoint.max_workers or _GOOGLE_CONNECTIONS, _GOOGLE_CONNECTIONS) for endpoint in endpoints]
        endpoints = [replace(endpoint, max_workers=n) for endpoint, n in zip(endpoints, most, strict=True)]
    for endpoint in endpoints:
        if _needs_key(backend, endpoint):
            name = _KEY_NAMES[backend][0]
            raise InvalidRequestError(
                f"the backend {backend} needs a key: set {name}, or give --api-key-file", "api_key"
            )
    return endpoints


def _needs_key(backend: str, endpoint: Endpoint) -> bool:
    has_project = backend == "google_genai" and "GOOGLE_CLOUD_PROJECT" in os.environ  # Vertex AI, by its own login
    return endpoint.api_key is None and _is_official(backend, endpoint) and not has_project


def _is_official(backend: str, endpoint: Endpoint) -> bool:
    return endpoint.host is None or (backend == "openai" and endpoint.host == _OPENAI_HOST)


def _service(backend: str, model_name: str, endpoints: list[Endpoint], extras: bool | None) -> "ImageService":
    extras = not any(_is_official(backend, endpoint) for endpoint in endpoints) if extras is None else extras
    try:
        if backend == "openai":
            from interlace.bulk.backends.openai_images import OpenAIImages

            return OpenAIImages(model_name, extras=extras)
        from interlace.bulk.backends.google_images import GoogleImages

        return GoogleImages(model_name, extras=extras)
    except ImportError as error:
        raise InvalidRequestError(
            f"the backend {backend} needs a package that is missing ({error.name}): pip install 'interlace[api]'",
            "backend",
        ) from error
