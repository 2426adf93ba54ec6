"""POST /v1/images/generations and /v1/images/edits, as OpenAI's Images API has them; streams with real previews."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from time import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from interlace.errors import AbortedError
from interlace.serve.bodies import Body, read_body
from interlace.serve.errors import ApiError, api_error, invalid
from interlace.serve.fields import EditFields, GenerationFields
from interlace.serve.image_orders import edit_order, generation_order
from interlace.serve.job import Job, Part, timings
from interlace.serve.media import decode_image, image_bytes
from interlace.serve.openapi import ERRORS, body_of
from interlace.serve.order import Order
from interlace.serve.pictures import encode_preview
from interlace.serve.registry import Registry
from interlace.serve.settings import ServeSettings
from interlace.serve.sse import EventStream, Frame, unless_gone
from interlace.serve.state import lanes_of, registry_of

router = APIRouter(tags=["images"], responses=ERRORS)


@router.post("/v1/images/generations", openapi_extra=body_of(GenerationFields))
async def generate(request: Request) -> Response:
    """Make pictures from a prompt. With `stream`: events; with `async`: 202 and a job."""
    fields = (await read_body(request)).as_fields(GenerationFields)
    order = await asyncio.to_thread(generation_order, fields, lanes_of(request))
    return await answer(request, order, fields, "generation")


@router.post("/v1/images/edits", openapi_extra=body_of(EditFields, files=("image", "mask")))
async def edit(request: Request) -> Response:
    """Change pictures as a prompt says. Files in a form, or base64 in JSON."""
    body = await read_body(request)
    fields = body.as_fields(EditFields)
    order = await asyncio.to_thread(_edit_order, request, fields, body)
    return await answer(request, order, fields, "edit")


def _edit_order(request: Request, fields: EditFields, body: Body) -> Order:
    lanes = lanes_of(request)
    lanes.choose(fields.model, edit=True)
    for name in body.files.keys() - {"image", "images", "mask", "markup"}:
        raise invalid(f"unknown file {name!r}; expected image, image[] or mask", name, "unknown_field")
    if "markup" in body.files:
        fields.markup = "a file"
    return edit_order(fields, *_pictures(fields, body, lanes.settings), lanes)


def _pictures(fields: EditFields, body: Body, settings: ServeSettings) -> tuple[list[Any], Any]:
    if fields.image is not None and fields.images is not None:
        raise invalid("image and images are both given; expected one of them", "images")
    values = fields.images if fields.images is not None else fields.image
    listed: list[Any] = list(values) if isinstance(values, list) else [values] if values is not None else []
    files = [*body.files.get("image", []), *body.files.get("images", []), *listed]
    if len(files) > settings.max_input_images:
        raise invalid(f"{len(files)} pictures; this server allows 1 to {settings.max_input_images}", "image")
    images = [decode_image(image_bytes(file, settings), settings) for file in files]
    masks = body.files.get("mask", []) or ([fields.mask] if fields.mask is not None else [])
    if len(masks) > 1:
        raise invalid(f"{len(masks)} masks; expected one, for the first picture", "mask")
    mask = decode_image(image_bytes(masks[0], settings, "mask"), settings, "mask", alpha=True) if masks else None
    return images, mask


async def answer(request: Request, order: Order, fields: GenerationFields | EditFields, kind: str) -> Response:
    """Submit, and answer in the way that was asked for."""
    registry = registry_of(request)
    _note(request, order, registry.settings)
    state = request.state
    background = bool(fields.run_async)
    job = registry.submit(order, job_id=state.request_id, kind=kind, client=state.client, background=background)
    if background:
        return JSONResponse(job.describe(), 202)
    if fields.stream:
        return EventStream(_events(registry, job))
    await finished(request, registry, job)
    urls = fields.response_format == "url"
    content = await asyncio.to_thread(_content, request, job, urls)
    if urls:
        job.background = job.collected = True  # its files stay, by their URLs, for result_ttl
    registry.release(job)
    return JSONResponse(content)


async def finished(request: Request, registry: Registry, job: Job) -> None:
    """Waits for the end of a job; a client that leaves aborts it. Raises `ApiError` where it failed."""
    try:
        if not await unless_gone(request, job.ended):
            request.state.note["disconnected"] = True
            registry.metrics.disconnects.inc()
    finally:
        registry.cancel(job)
    if job.error is not None:
        raise job.error


def _note(request: Request, order: Order, settings: ServeSettings) -> None:
    """For the log's line."""
    width, height = order.size
    facts = {"model": order.lane.name, "size": f"{width}x{height}", "steps": order.num_steps, "n": len(order.seeds)}
    if order.user:
        facts["user"] = order.user
    if settings.log_prompts:
        facts["prompt"] = order.prompt
    request.state.note.update(facts)


def _content(request: Request, job: Job, urls: bool) -> dict[str, Any]:
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
    }


def _datum(request: Request, job: Job, part: Part, urls: bool) -> dict[str, Any]:
    if urls:
        settings = lanes_of(request).settings
        base = (settings.public_url or str(request.base_url)).rstrip("/")
        return {"url": f"{base}/files/{part.name}.{job.order.encoding.extension}", "seed": part.seed}
    assert part.file is not None
    return {"b64_json": base64.b64encode(part.file.data).decode(), "seed": part.seed}


def _facts(job: Job, part: Part) -> dict[str, Any]:
    order = job.order
    width, height = part.size or order.size
    facts = {"size": f"{width}x{height}", "output_format": order.encoding.name, **order.facts}
    return {**facts, "safety_identifier": order.user} if order.user else facts


def _usage(job: Job, parts: list[Part]) -> dict[str, Any]:
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


async def _events(registry: Registry, job: Job) -> AsyncGenerator[Frame, None]:
    """`image_generation.partial_image` and `.completed` (or `image_edit.*`), keep-alives, an `error` at worst."""
    prefix = "image_edit" if job.kind == "edit" else "image_generation"
    with registry.followed(job) as events:
        while True:
            event = await registry.next_event(events)
            if event is None:
                yield None
                continue
            if event.kind == "preview" and event.part is not None:
                data = await asyncio.to_thread(encode_preview, event.preview, job.order, event.part.size)
                index = event.part.num_previews - 1
                yield _frame(f"{prefix}.partial_image", job, event.part, data, partial_image_index=index)
            elif event.kind == "image" and event.part is not None and event.part.file is not None:
                facts = {"usage": _usage(job, [event.part]), "timings": timings(event.part.metrics)}
                yield _frame(f"{prefix}.completed", job, event.part, event.part.file.data, **facts)
            elif event.kind == "error":
                error = job.error or api_error(AbortedError("the request ended"))
                yield "error", {"type": "error", **error.body}
                return
            elif event.kind == "done":
                return


def _frame(name: str, job: Job, part: Part, data: bytes, **more: Any) -> Frame:
    picture = base64.b64encode(data).decode()
    facts = {"type": name, "b64_json": picture, "created_at": int(time()), **_facts(job, part)}
    return name, {**facts, "index": part.index, "seed": part.seed, "request_id": job.id, **more}


@router.get("/files/{name}", include_in_schema=False)
async def file(request: Request, name: str) -> Response:
    """A picture that `response_format: url` named."""
    part = registry_of(request).part_named(name.partition(".")[0])
    if part is None or part.file is None:
        raise ApiError(404, "no such file; it never was, or has expired", code="file_not_found")
    headers = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": "default-src 'none'"}
    return Response(part.file.data, media_type=part.file.media_type, headers=headers)
