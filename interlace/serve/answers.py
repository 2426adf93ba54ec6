"""Answers with pictures in the shape of OpenAI's Images API: JSON, a file, or a stream with previews."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from time import time
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from interlace.errors import AbortedError
from interlace.serve.http.errors import api_error
from interlace.serve.http.sse import Frame
from interlace.serve.jobs.job import Event, Part, RequestJob, timings
from interlace.serve.jobs.pictures import encode_preview
from interlace.serve.jobs.registry import Registry
from interlace.serve.jobs.waiting import finished, start, streamed
from interlace.serve.orders.fields import EditFields, GenerationFields
from interlace.serve.orders.order import Order
from interlace.serve.settings import ServeSettings
from interlace.serve.state import lanes_of, registry_of


async def answer(request: Request, order: Order, fields: GenerationFields | EditFields, kind: str) -> Response:
    """Submit, and answer in the way that was asked for."""
    registry = registry_of(request)
    job = start(request, registry, order, kind, background=bool(fields.run_async))
    if job.background:
        return JSONResponse(job.describe(), 202)
    if fields.stream:
        return streamed(registry, job, lambda events: _events(job, events))
    await finished(request, registry, job)
    if fields.response_format == "file":
        return _as_file(registry, job)
    urls = _wants_urls(fields, registry.settings)
    content = await asyncio.to_thread(_content, request, job, urls)
    if urls:
        job.background = job.collected = True  # its files stay, by their URLs, for result_ttl
    registry.release(job)
    return JSONResponse(content)


def _wants_urls(fields: GenerationFields | EditFields, settings: ServeSettings) -> bool:
    """As the request says; else as the model of that name always did, else as the server's setting says."""
    if fields.response_format is not None:
        return fields.response_format == "url"
    return settings.response_format == "url" or (fields.model or "").startswith("dall-e-")


def _as_file(registry: Registry, job: RequestJob) -> Response:
    """The picture itself."""
    file = job.parts[0].file
    assert file is not None
    registry.release(job)
    return Response(file.data, media_type=file.media_type, headers={"X-Interlace-Seed": str(job.parts[0].seed)})


def _content(request: Request, job: RequestJob, urls: bool) -> dict[str, Any]:
    """The body of a finished answer. Runs in a worker: base64 of many pictures takes a while."""
    return {
        "created": int(job.completed or time()),
        "data": [_datum(request, job, part, urls) for part in job.parts],
        **_facts(job, job.parts[0]),
        "usage": _usage(job, job.parts),
        "id": job.id,
        "model": job.order.lane.name,
        "seed": job.parts[0].seed,
        "timings": timings(job.parts[-1].metrics),
        **_warnings(job),
    }


def _warnings(job: RequestJob) -> dict[str, Any]:
    return {"warnings": list(job.order.warnings)} if job.order.warnings else {}


def _datum(request: Request, job: RequestJob, part: Part, urls: bool) -> dict[str, Any]:
    if urls:
        settings = lanes_of(request).settings
        base = (settings.public_url or str(request.base_url)).rstrip("/")
        return {"url": f"{base}/files/{part.name}.{job.order.encoding.extension}", "seed": part.seed}
    assert part.file is not None
    return {"b64_json": base64.b64encode(part.file.data).decode(), "seed": part.seed}


def _facts(job: RequestJob, part: Part) -> dict[str, Any]:
    order = job.order
    width, height = part.size or order.size
    facts = {"size": f"{width}x{height}", "output_format": order.encoding.name, **order.facts}
    return {**facts, "safety_identifier": order.user} if order.user else facts


def _usage(job: RequestJob, parts: list[Part]) -> dict[str, Any]:
    """Text tokens of the prompt, and squares of 16 by 16 pixels as image tokens."""
    text = job.order.num_text_tokens
    made = sum((part.size[0] // 16) * (part.size[1] // 16) for part in parts if part.size)
    return {
        "input_tokens": text + job.order.num_image_tokens,
        "input_tokens_details": {"text_tokens": text, "image_tokens": job.order.num_image_tokens},
        "output_tokens": made,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": made},
        "total_tokens": text + job.order.num_image_tokens + made,
    }


async def _events(job: RequestJob, events: "asyncio.Queue[Event]") -> AsyncGenerator[Frame, None]:
    """`image_generation.partial_image` and `.completed` (or `image_edit.*`), keep-alives, an `error` at worst."""
    prefix = "image_edit" if job.kind == "edit" else "image_generation"
    while True:
        event = await events.get()
        if event.kind == "preview" and event.part is not None:
            data = await asyncio.to_thread(encode_preview, event, job.order)
            yield _frame(f"{prefix}.partial_image", job, event.part, data, partial_image_index=event.index)
        elif event.kind == "image" and event.part is not None and event.part.file is not None:
            facts = {"usage": _usage(job, [event.part]), "timings": timings(event.part.metrics), **_warnings(job)}
            yield _frame(f"{prefix}.completed", job, event.part, event.part.file.data, **facts)
        elif event.kind == "error":
            error = job.error or api_error(AbortedError("the request ended"))
            yield "error", {"type": "error", **error.body}
            return
        elif event.kind == "done":
            return


def _frame(name: str, job: RequestJob, part: Part, data: bytes, **more: Any) -> Frame:
    picture = base64.b64encode(data).decode()
    facts = {"type": name, "b64_json": picture, "created_at": int(time()), **_facts(job, part)}
    return name, {**facts, "index": part.index, "seed": part.seed, "request_id": job.id, **more}
