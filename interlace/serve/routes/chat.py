"""POST /v1/chat/completions: a chat that is answered with a picture, and with the text that a stage wrote for it.

The last user message is the prompt; pictures in it are edited, else the last picture of the conversation is. In the
answer `content` is the text, or null, and `images` has the pictures.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator
from time import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from interlace.errors import AbortedError
from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import api_error
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.http.sse import Frame
from interlace.serve.jobs.job import Event, Part, RequestJob
from interlace.serve.jobs.waiting import finished, start, streamed
from interlace.serve.orders.chats import chat_order
from interlace.serve.orders.fields import Name, PictureFormat, Quality, Sampling, Size
from interlace.serve.state import lanes_for, registry_of

router = APIRouter(tags=["chat"], responses=ERRORS)


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
    image_config: dict[str, Any] | None = Field(None, description="OpenRouter's: aspect_ratio, image_size.")
    quality: Quality | None = None
    output_format: PictureFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    user: Name | None = None


@router.post("/v1/chat/completions", openapi_extra=body_of(ChatFields, form=False))
async def chat(request: Request) -> Response:
    """With `stream`: the text as it is written, then the picture, in deltas."""
    fields = (await read_body(request, forms=False)).as_fields(ChatFields)
    order = await asyncio.to_thread(chat_order, fields, fields.messages, await lanes_for(request, fields.model))
    registry = registry_of(request)
    job = start(request, registry, order, "chat")
    if fields.stream:
        return streamed(registry, job, lambda events: _events(job, events))
    await finished(request, registry, job)
    content = await asyncio.to_thread(_completion, job)
    registry.release(job)
    return JSONResponse(content)


def _completion(job: RequestJob) -> dict[str, Any]:
    choices = [
        {"index": part.index, "finish_reason": "stop", "logprobs": None, "seed": part.seed,
         "message": {"role": "assistant", "content": part.text, "refusal": None, "images": _images(part)}}
        for part in job.parts
    ]  # fmt: skip
    return {**_head(job, "chat.completion"), "choices": choices, "usage": _usage(job)}


def _images(part: Part) -> list[dict[str, Any]]:
    """The picture as OpenRouter, LiteLLM and others have it; `index` counts the pictures of one message."""
    assert part.file is not None
    data = base64.b64encode(part.file.data).decode()
    url = f"data:{part.file.media_type};base64,{data}"
    return [{"type": "image_url", "image_url": {"url": url}, "index": 0}]


def _head(job: RequestJob, kind: str) -> dict[str, Any]:
    head = {"id": f"chatcmpl-{job.id}", "object": kind, "created": int(job.created), "model": job.order.lane.name}
    return {**head, "warnings": list(job.order.warnings)} if job.order.warnings else head


def _usage(job: RequestJob) -> dict[str, int]:
    """Tokens of the language model where there is one, else of the prompt."""
    metrics = [part.metrics for part in job.parts if part.metrics is not None]
    asked = sum(one.num_prompt_tokens for one in metrics) or job.order.num_text_tokens
    made = sum(one.num_tokens for one in metrics)
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


async def _events(job: RequestJob, events: "asyncio.Queue[Event]") -> AsyncGenerator[Frame, None]:
    """Chunks as OpenAI's SDK reads them, `[DONE]` last; an error ends the stream."""

    def chunk(part: Part, delta: dict[str, Any], reason: str | None = None) -> Frame:
        choice = {"index": part.index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return "", {**_head(job, "chat.completion.chunk"), "created": int(time()), "choices": [choice]}

    for part in job.parts:
        yield chunk(part, {"role": "assistant", "content": ""})
    while True:
        event = await events.get()
        if event.kind == "text" and event.part is not None:
            yield chunk(event.part, {"content": event.text})
        elif event.kind == "image" and event.part is not None:
            yield chunk(event.part, {"images": await asyncio.to_thread(_images, event.part)})
            yield chunk(event.part, {}, "stop")
        elif event.kind == "error":
            error = job.error or api_error(AbortedError("the request ended"))
            yield "", error.body
            return
        elif event.kind == "done":
            yield "", {**_head(job, "chat.completion.chunk"), "choices": [], "usage": _usage(job)}
            yield "", "[DONE]"
            return
