"""Bodies of requests, JSON or form, as plain values. Files of a form are read whole: the gate bounds the body."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.leniency.table import RENAMED

_LARGE = 2**18  # bytes of JSON that are parsed off the event loop
_MAX_FIELDS = 100
_PICTURES = ("image", "images", "mask", "url", "mask_image", "input_reference", "image_reference")
_INDEX = re.compile(r"\[\d{0,3}\]$")  # `image[]`, `image[0]`
_JSON = ("extra_params", "extra_body", "svg")


class Checked(Protocol):
    """Fields that check themselves: `orders/fields.py` has them."""

    @classmethod
    def of(cls, values: Mapping[str, object], *, is_form: bool, strict_fields: bool) -> Self:
        """Raises for what is wrong."""


M = TypeVar("M", bound=Checked)


@dataclass
class Body:
    """What was sent. `is_form` values are texts, `files` the uploads by field name.

    With `strict_fields` nothing that was sent is ignored.
    """

    values: dict[str, Any]
    is_form: bool = False
    strict_fields: bool = False
    files: dict[str, list[bytes]] = field(default_factory=dict)

    def as_fields(self, model: type[M]) -> M:
        """Checked. Raises `InvalidRequestError` and pydantic's ValidationError, which are answered as a 400."""
        return model.of(self.values, is_form=self.is_form, strict_fields=self.strict_fields)


async def read_body(request: Request, *, forms: bool = True) -> Body:
    """Raises `ApiError`: 400 for what can't be read, 415 for another content type."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if forms and kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = await _read_form(request)
    elif kind in ("application/json", "") or kind.endswith("+json"):
        body = Body(await _read_json(request))
    else:
        expected = "application/json or multipart/form-data" if forms else "application/json"
        raise ApiError(415, f"content type is {kind[:80]!r}; expected {expected}", code="unsupported_media_type")
    body.strict_fields = request.state.strict_fields
    deployment = getattr(request.state, "deployment", None)
    if deployment is not None and not body.values.get("model"):
        body.values["model"] = deployment
    return body


async def _read_json(request: Request) -> dict[str, Any]:
    data = await request.body()
    try:
        value = await asyncio.to_thread(_loads, data) if len(data) > _LARGE else _loads(data)
    except (ValueError, RecursionError) as error:
        text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid(f"the body is no JSON: {text[:200]}", None, "invalid_json") from error
    if not isinstance(value, dict):
        raise invalid(f"the body is a JSON {type(value).__name__}; expected an object", None, "invalid_json")
    return value


def _loads(data: bytes) -> Any:
    return json.loads(data.decode("utf-8"), parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


async def _read_form(request: Request) -> Body:
    try:
        async with request.form(max_files=_MAX_FIELDS, max_fields=_MAX_FIELDS, max_part_size=2**27) as form:
            body = Body({}, is_form=True)
            for name, value in form.multi_items():
                await _add(body, name, value)
            return body
    except (MultiPartException, UnicodeDecodeError, ValueError) as error:
        raise invalid(f"the form can't be read: {error}", None, "invalid_form") from error
    except ApiError:
        raise
    except Exception as error:
        if getattr(error, "status_code", None) == 400:
            raise invalid(f"the form can't be read: {getattr(error, 'detail', error)}", None, "invalid_form") from error
        raise


async def _add(body: Body, name: str, value: UploadFile | str) -> None:
    plain = _INDEX.sub("", name)
    if isinstance(value, UploadFile):
        body.files.setdefault(RENAMED.get(plain, plain), []).append(await value.read())
    elif plain in _PICTURES:  # a text: base64, a data URL or a URL
        if value.strip():
            body.values.setdefault(plain, []).append(value)
    elif plain != name or plain in body.values:
        raise invalid(f"{name} is given more than once; expected one value", plain)
    elif plain in _JSON:
        body.values[plain] = _json_value(plain, value)
    elif plain.startswith("extra_params["):
        body.values.setdefault("extra_params", {})[plain[13:].rstrip("]")] = _plain(value)
    else:
        body.values[plain] = value if plain in ("prompt", "negative_prompt") or value != "" else None


def _json_value(name: str, text: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{name} is no JSON object: {error}", name) from error


def _plain(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (bool, int, float, str)) else text
