"""Gemini's `:generateContent` and `:streamGenerateContent` with image output, as Google's clients call them.

Names may be in either of Google's spellings. Pictures are in `parts[].inlineData`.
"""

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from interlace.errors import AbortedError
from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import ApiError, api_error, invalid
from interlace.serve.http.openapi import ERRORS
from interlace.serve.http.sse import Frame
from interlace.serve.jobs.job import Event, Part, RequestJob
from interlace.serve.jobs.waiting import finished, start, streamed
from interlace.serve.leniency.sift import sift
from interlace.serve.orders.chats import configured, order_of
from interlace.serve.orders.conversation import read_conversation
from interlace.serve.orders.fields import GenerationFields
from interlace.serve.orders.order import Order
from interlace.serve.state import lanes_for, models_of, registry_of

router = APIRouter(tags=["dialects"], responses=ERRORS)
_BODY = ("contents", "system_instruction", "generation_config", "model")
_NAMES = {"candidate_count": "n", "image_config": "image_config", "max_output_tokens": "max_tokens"}


@router.get("/v1beta/models", include_in_schema=False)
async def models(request: Request) -> dict[str, object]:
    """What is served, as Google lists it."""
    return {"models": [_model(name) for name in models_of(request).names]}


@router.get("/v1beta/models/{model:path}", include_in_schema=False)
async def model(request: Request, model: str) -> dict[str, object]:
    """One of them."""
    if model not in models_of(request).names:
        raise ApiError(404, f"model {model[:80]!r} is not served here; see /v1beta/models", code="model_not_found")
    return _model(model)


def _model(name: str) -> dict[str, Any]:
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": ["generateContent"]}


@router.post("/v1beta/models/{model:path}:generateContent", include_in_schema=False)
@router.post("/v1/models/{model:path}:generateContent", include_in_schema=False)
async def generate_content(request: Request, model: str) -> Response:
    """One answer."""
    registry = registry_of(request)
    job = start(request, registry, await _order(request, model), "gemini")
    await finished(request, registry, job)
    content = await asyncio.to_thread(_content, job, job.parts)
    registry.release(job)
    return JSONResponse(content)


@router.post("/v1beta/models/{model:path}:streamGenerateContent", include_in_schema=False)
@router.post("/v1/models/{model:path}:streamGenerateContent", include_in_schema=False)
async def stream_content(request: Request, model: str) -> Response:
    """The text as it is written, then the picture."""
    registry = registry_of(request)
    job = start(request, registry, await _order(request, model), "gemini")
    return streamed(registry, job, lambda events: _events(job, events))


async def _order(request: Request, model: str) -> Order:
    body = await read_body(request, forms=False)
    model = _served(model, models_of(request).names)
    return await asyncio.to_thread(_order_of, body.values, model, await lanes_for(request, model))


def _order_of(body: Mapping[str, Any], model: str, lanes: Any) -> Order:
    strict = lanes.settings.strict_fields
    kept, warnings = sift(_snake(body), _BODY, strict=strict)
    listed = _contents(kept.get("contents"))
    config = _snake(_mapping(kept.get("generation_config"), "generation_config"))
    config = {_NAMES.get(name, name): value for name, value in config.items()}
    config, more = sift(config, [*GenerationFields.names(), "image_config", "response_modalities"], strict=strict)
    config.pop("response_modalities", None)
    image_config = _snake(_mapping(config.pop("image_config", None), "image_config"))
    warnings += more + configured(config, image_config)
    told = kept.get("system_instruction")
    messages = [{"role": "system", "content": _parts(told)}] if told else []
    messages += [
        {"role": "assistant" if one.get("role") == "model" else "user", "content": _parts(one)} for one in listed
    ]
    talk = read_conversation(messages, "contents")
    return order_of(talk, {"model": model, **config}, lanes, warnings, param="contents")


def _contents(value: Any) -> list[Mapping[str, Any]]:
    listed = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Mapping)]
    if not listed or (isinstance(value, list) and len(listed) != len(value)):
        raise invalid("contents is missing; expected a list of {role, parts}", "contents", "missing_field")
    return listed


def _served(model: str, names: Sequence[str]) -> str:
    """The name after `models/`, as the clients write it."""
    return model if model in names else model.removeprefix("models/")


def _parts(content: Any) -> Any:
    """Google's parts as OpenAI's."""
    if isinstance(content, str):
        return content
    parts = content.get("parts") if isinstance(content, Mapping) else None
    return [_part(_snake(part)) if isinstance(part, Mapping) else part for part in (parts or [])]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    data = part.get("inline_data")
    if isinstance(data, Mapping):
        text = str(data.get("data", "")).replace("-", "+").replace("_", "/")  # Google's clients write base64 for URLs
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    return {"type": next(iter(part), "nothing")}


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is None or isinstance(value, Mapping):
        return value or {}
    raise invalid(f"{name} is a {type(value).__name__}; expected an object", name)


def _snake(values: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower(): value for name, value in values.items()}


def _content(job: RequestJob, parts: list[Part], *, is_last: bool = True) -> dict[str, Any]:
    made = sum((part.size[0] // 16) * (part.size[1] // 16) for part in job.parts if part.size)
    asked = job.order.num_text_tokens + job.order.num_image_tokens
    usage = {"promptTokenCount": asked, "candidatesTokenCount": made, "totalTokenCount": asked + made}
    return {
        "candidates": [_candidate(part, part.text) for part in parts],
        "modelVersion": job.order.lane.name,
        "responseId": job.id,
        **({"usageMetadata": usage} if is_last else {}),
        **({"warnings": list(job.order.warnings)} if job.order.warnings else {}),
    }


def _candidate(part: Part, text: str | None, *, picture: bool = True) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": text}] if text else []
    if picture and part.file is not None:
        data = base64.b64encode(part.file.data).decode()
        parts.append({"inlineData": {"mimeType": part.file.media_type, "data": data}})
    candidate = {"content": {"role": "model", "parts": parts}, "index": part.index}
    return {**candidate, "finishReason": "STOP"} if picture else candidate


async def _events(job: RequestJob, events: "asyncio.Queue[Event]") -> AsyncGenerator[Frame, None]:
    while True:
        event = await events.get()
        if event.kind == "text" and event.part is not None:
            yield "", {"candidates": [_candidate(event.part, event.text, picture=False)], "responseId": job.id}
        elif event.kind == "image" and event.part is not None:
            candidate = await asyncio.to_thread(_candidate, event.part, None)
            yield "", {**_content(job, []), "candidates": [candidate]}
        elif event.kind == "error":
            error = job.error or api_error(AbortedError("the request ended"))
            yield "", google_error(error)
            return
        elif event.kind == "done":
            return


def google_error(error: ApiError) -> dict[str, Any]:
    """An error as Google's clients read it: its `code` is the status."""
    status = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
              503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}.get(error.status, "INTERNAL")  # fmt: skip
    return {"error": {**error.body["error"], "code": error.status, "status": status}}
