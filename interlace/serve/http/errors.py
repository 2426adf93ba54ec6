"""Errors as clients see them: always {"error": {message, type, param, code}}, with statuses that OpenAI's SDK maps."""

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

import interlace
from interlace.errors import (
    AbortedError,
    DeadlineExceededError,
    EngineClosedError,
    EngineDeadError,
    InterlaceError,
    InvalidRequestError,
    NonFiniteOutputError,
    UnknownAdapterError,
)
from interlace.serve.leniency.sift import FieldError

logger = logging.getLogger("interlace.serve")
_PACKAGE = Path(interlace.__file__).parent
_NO_RETRY = {"x-should-retry": "false"}  # OpenAI's SDK would send these again
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "unprocessable",
}


class ApiError(Exception):
    """An answer that is an error. `param` names the field at fault, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """What the client gets."""
        kind = _TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status, self.headers)


def client_left() -> ApiError:
    """499, as nginx calls it: what a request ends with whose client has closed its connection. Nobody reads it."""
    text = "the client closed its connection before the answer was there"
    return ApiError(499, text, code="client_closed_request", headers=_NO_RETRY)


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: what was got, what was expected, what to do."""
    return ApiError(400, message, code=code, param=param)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package's own code, and not by a pipeline's or a library's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE)


def pipeline_error(error: BaseException) -> ApiError:
    """What ended a request in its engine, as an answer: what a pipeline says of its arguments is its client's affair.

    The log says where it was raised, for whoever doubts that.
    """
    if not isinstance(error, (ValueError, TypeError)) or isinstance(error, InterlaceError) or is_ours(error):
        return api_error(error)
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{frame[0].filename}:{frame[0].lineno}" if frame else "somewhere"
    logger.warning("a pipeline refused a request: %s: %s (%s)", type(error).__name__, error, where)
    return invalid(f"the model's pipeline refused this request: {error}", code="refused_by_pipeline")


def api_error(error: BaseException) -> ApiError:
    """Any exception as an answer. A `ValueError` that isn't one of ours on purpose is a slip, and so a 500."""
    match error:
        case ApiError():
            return error
        case FieldError():
            return invalid(str(error), error.param, error.code)
        case UnknownAdapterError():
            return ApiError(404, str(error), code="adapter_not_found", param=error.param or "lora")
        case InvalidRequestError():
            return invalid(str(error), error.param)
        case RequestValidationError() | ValidationError():
            return _validation(error)
        case HTTPException():
            code = _CODES.get(error.status_code, "error")
            return ApiError(error.status_code, _detail(error), code=code, headers=error.headers)
        case DeadlineExceededError():
            return ApiError(504, str(error), code="timeout", param="timeout_s", headers=_NO_RETRY)
        case AbortedError():
            return ApiError(409, str(error), code="aborted", headers=_NO_RETRY)
        case NonFiniteOutputError():
            return ApiError(422, str(error), code="non_finite_output", headers=_NO_RETRY)
        case EngineClosedError() | EngineDeadError():
            return ApiError(503, str(error), code="engine_stopped", headers={"Retry-After": "10"})
        case torch.OutOfMemoryError() | MemoryError():
            text = "out of memory for this request even alone; try a smaller size"
            return ApiError(503, text, code="out_of_memory", headers=_NO_RETRY)
        case _:
            text = f"unexpected {type(error).__name__}; the server's log says more"
            return ApiError(500, text, code="internal_error", headers=_NO_RETRY)


def _detail(error: HTTPException) -> str:
    allowed = (error.headers or {}).get("Allow")
    return f"no such method here; expected {allowed}" if error.status_code == 405 and allowed else str(error.detail)


# In place of the patterns that fields must match.
_LOOKS = {
    "size": "WIDTHxHEIGHT in pixels, such as 512x512, or auto",
    "aspect_ratio": "WIDTH:HEIGHT, such as 16:9",
    "seconds": "a number of seconds, such as 2.5",
}


def _validation(error: RequestValidationError | ValidationError) -> ApiError:
    """The first of pydantic's complaints, in the words got / expected."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param, where = path[0] if path else None, ".".join(path)
    got = _short(first.get("input"))
    match first["type"]:
        case "missing":
            return invalid(f"{param} is missing; it is required", param, "missing_field")
        case "extra_forbidden":
            return invalid(f"unknown field {where!r}; leave it out (fields: see /docs)", param, "unknown_field")
        case "string_pattern_mismatch" if param in _LOOKS:
            return invalid(f"{param} is {got}; expected {_LOOKS[param]}", param)
        case _:
            text = f"{where or 'the body'} is {got}; expected: {first['msg'].removeprefix('Input should be ')}"
            return invalid(text, param)


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):  # whatever is in there may be large
        return f"a {type(value).__name__} with {len(value)} items"
    text = repr(value[:200] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= 100 else text[:97] + "..."


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for whatever a route raised."""
    answer = api_error(error)
    if answer.code == "internal_error" and answer is not error:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer.response()
