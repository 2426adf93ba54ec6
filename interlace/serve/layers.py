"""What every request passes on its way to a route, and what becomes of errors: the same for every server of ours."""

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from interlace.errors import InterlaceError
from interlace.serve.http.auth import Keys
from interlace.serve.http.elsewhere import OtherPaths
from interlace.serve.http.errors import ApiError, answer_error
from interlace.serve.http.forwarded import Forwarded
from interlace.serve.http.head import HeadAsGet
from interlace.serve.http.middleware import Gate
from interlace.serve.metrics import ServerMetrics
from interlace.serve.settings import ServeSettings


def add_layers(app: FastAPI, settings: ServeSettings, keys: Keys, metrics: ServerMetrics) -> None:
    """From the innermost to the outermost: the gate, other names of paths, HEAD, CORS, what proxies say."""
    for kind in (ApiError, InterlaceError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(Gate, settings=settings, keys=keys, metrics=metrics)
    app.add_middleware(OtherPaths)
    app.add_middleware(HeadAsGet)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origin),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "X-Interlace-Warnings", "Retry-After"],
            allow_private_network=True,
        )
    app.add_middleware(Forwarded, trusted=settings.forwarded_allow_ips, root_path=settings.root_path)
