"""POST /v1/chat/completions: a chat that is answered with a picture, and with the text that a stage wrote for it.

The last user message is the prompt; pictures in it are edited. Content parts in the answer: the text, then the images.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from time import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from interlace.errors import AbortedError
from interlace.serve.bodies import read_body
from interlace.serve.errors import api_error, invalid
from interlace.serve.fields import EditFields, GenerationFields, Name, Quality, Sampling, Size
from interlace.serve.image_orders import edit_order, generation_order
from interlace.serve.images_api import finished
from interlace.serve.job import Job, Part
from interlace.serve.lanes import Lane, Lanes
from interlace.serve.media import decode_image, image_bytes
from interlace.serve.openapi import ERRORS, body_of
from interlace.serve.order import Order
from interlace.serve.registry import Registry
from interlace.serve.sse import EventStream, Frame
from interlace.serve.state import lanes_of, registry_of

router = APIRouter(tags=["chat"], responses=ERRORS)
_OWN = ("messages", "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "stop", "stream",
        "stream_options", "modalities")  # fmt: skip


class ChatFields(Sampling):
    """OpenAI's fields for the text, and those of the Images API for the picture."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    model: Name | None = None
    n: Annotated[int, Field(ge=1)] | None = Field(None, description="Number of choices, each with a picture.")
    stream: bool | None = None
    stream_options: dict[str, Any] | None = Field(None, description="Usage is always told.")
    modalities: list[Literal["text", "image"]] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="Of the language model.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Of the language model.")
    top_k: Annotated[int, Field(ge=0)] | None = Field(None, description="Of the language model.")
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Of the language model.")
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="As max_tokens.")
    stop: str | list[str] | None = Field(None, description="Of the language model.")
    size: Size | None = None
    quality: Quality | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    user: Name | None = None


@router.post("/v1/chat/completions", openapi_extra=body_of(ChatFields, form=False))
async def chat(request: Request) -> Response:
    """With `stream`: the text as it is written, then the picture, as content parts of deltas."""
    fields = (await read_body(request, forms=False)).as_fields(ChatFields)
    order = await asyncio.to_thread(_order, fields, lanes_of(request))
    registry, state = registry_of(request), request.state
    state.note.update({"model": order.lane.name, "n": len(order.seeds)})
    job = registry.submit(order, job_id=state.request_id, kind="chat", client=state.client)
    if fields.stream:
        return EventStream(_events(registry, job))
    await finished(request, registry, job)
    content = await asyncio.to_thread(_completion, job)
    registry.release(job)
    return JSONResponse(content)


def _order(fields: ChatFields, lanes: Lanes) -> Order:
    """Raises `ApiError` for what can't be done."""
    prompt, images = _last_message(fields.messages)
    given = fields.model_dump(exclude_none=True)
    values = {name: value for name, value in given.items() if name not in _OWN} | {"prompt": prompt}
    if images:
        lanes.choose(fields.model, edit=True)
        if len(images) > lanes.settings.max_input_images:
            raise invalid(f"{len(images)} pictures; this server allows {lanes.settings.max_input_images}", "messages")
        pictures = [decode_image(image_bytes(one, lanes.settings), lanes.settings) for one in images]
        order = edit_order(EditFields.model_validate(values), pictures, None, lanes)
    else:
        order = generation_order(GenerationFields.model_validate(values), lanes)
    return replace(order, stages=_stages(given, order.lane))


def _stages(given: Mapping[str, Any], lane: Lane) -> list[dict[str, Any]]:
    """Sampling of the language models' stages. Raises `ApiError` where there is none."""
    names = {"max_completion_tokens": "max_tokens"}
    wanted = ("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "stop")
    language = {names.get(name, name): given[name] for name in wanted if name in given}
    types = [config.stage_type for config in getattr(lane.omni, "configs", ())]
    if language and "ar" not in types:
        name = next(iter(language))
        raise invalid(f"{name} is a language model's; this server has none (--ar-stage): leave it out", name)
    return [dict(language) if one == "ar" else {} for one in types]


def _last_message(messages: list[dict[str, Any]]) -> tuple[str, list[Any]]:
    """The text and the pictures of the last message, which must be the user's."""
    last = messages[-1]
    if last.get("role") != "user":
        raise invalid(f"the last message's role is {last.get('role')!r}; expected user", "messages")
    content = last.get("content")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise invalid("the last message's content is neither a text nor a list of parts", "messages")
    texts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images.append(part)
        else:
            raise invalid(f"a content part's type is {kind!r}; expected text or image_url", "messages")
    return "\n".join(texts), images


def _completion(job: Job) -> dict[str, Any]:
    choices = [
        {"index": part.index, "finish_reason": "stop", "message": {"role": "assistant", "content": _content(part)},
         "seed": part.seed}
        for part in job.parts
    ]  # fmt: skip
    return {**_head(job, "chat.completion"), "choices": choices, "usage": _usage(job)}


def _content(part: Part) -> list[dict[str, Any]]:
    """The text, if a stage wrote one, then the picture."""
    texts = [{"type": "text", "text": part.text}] if part.text is not None else []
    return [*texts, *_image(part)]


def _image(part: Part) -> list[dict[str, Any]]:
    assert part.file is not None
    data = base64.b64encode(part.file.data).decode()
    return [{"type": "image_url", "image_url": {"url": f"data:{part.file.media_type};base64,{data}"}}]


def _head(job: Job, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{job.id}", "object": kind, "created": int(job.created), "model": job.order.lane.name}


def _usage(job: Job) -> dict[str, int]:
    """Tokens of the language model where there is one, else of the prompt."""
    metrics = [part.metrics for part in job.parts if part.metrics is not None]
    asked = sum(one.num_prompt_tokens for one in metrics) or job.order.num_text_tokens
    made = sum(one.num_tokens for one in metrics)
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


async def _events(registry: Registry, job: Job) -> AsyncGenerator[Frame, None]:
    """Chunks as OpenAI's SDK reads them, `[DONE]` last; an error ends the stream."""

    def chunk(part: Part, delta: dict[str, Any], reason: str | None = None, **more: Any) -> Frame:
        choice = {"index": part.index, "delta": delta, "finish_reason": reason}
        return "", {**_head(job, "chat.completion.chunk"), "created": int(time()), "choices": [choice], **more}

    with registry.followed(job) as events:
        for part in job.parts:
            yield chunk(part, {"role": "assistant", "content": ""})
        while True:
            event = await registry.next_event(events)
            if event is None:
                yield None
                continue
            if event.kind == "text" and event.part is not None:
                yield chunk(event.part, {"content": event.text})
            elif event.kind == "image" and event.part is not None:
                yield chunk(event.part, {"content": await asyncio.to_thread(_image, event.part)})
                yield chunk(event.part, {}, "stop")
            elif event.kind == "error":
                error = job.error or api_error(AbortedError("the request ended"))
                yield "", error.body
                return
            elif event.kind == "done":
                yield "", {**_head(job, "chat.completion.chunk"), "choices": [], "usage": _usage(job)}
                yield "", "[DONE]"
                return
