"""Requests as things: listed, looked at, followed, cancelled; the results of asynchronous ones."""

import asyncio
import base64
import io
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Query, Request
from PIL import Image
from starlette.responses import Response

from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.http.openapi import ERRORS
from interlace.serve.http.sse import EventStream, Frame
from interlace.serve.jobs.job import Event, RequestJob, timings
from interlace.serve.jobs.registry import Registry
from interlace.serve.jobs.repository import Wait
from interlace.serve.ranges import file_answer
from interlace.serve.state import registry_of, viewer_of

router = APIRouter(prefix="/v1/requests", tags=["requests"], responses=ERRORS)


def describe(registry: Registry, job: RequestJob, positions: dict[RequestJob, int] | None = None) -> dict[str, object]:
    """A job with its position in the queue."""
    found = registry.positions() if positions is None else positions
    return job.describe(found.get(job))


@router.get("")
async def listed(
    request: Request,
    status: str | None = Query(None, description="live (the default), all, or one status", max_length=20),
    limit: int = Query(100, ge=1, le=1000),
) -> dict[str, object]:
    """Requests that wait or run, oldest first; with `status=all` those that are over too."""
    registry = registry_of(request)
    known = {"live": ("queued", "in_progress"), "all": ("queued", "in_progress", "completed", "failed")}
    wanted = known.get(status or "live", (status,))
    if wanted[0] not in known["all"]:
        expected = "live, all, queued, in_progress, completed or failed"
        raise invalid(f"status is {status!r}; expected {expected}", "status")
    viewer, positions = viewer_of(request), registry.positions()
    jobs = [job for job in registry.jobs if viewer in (None, job.client) and job.state in wanted]
    data = [describe(registry, job, positions) for job in jobs[-limit:]]
    if "queued" in wanted:  # for a model that is being loaded
        data += [_waiting(wait) for wait in registry.models.waits if viewer in (None, wait.client)]
    return {"object": "list", "data": data, "has_more": len(jobs) > limit}


@router.get("/{id}")
async def one(request: Request, id: str) -> dict[str, object]:
    """One request: its status, step of how many, rows it shares, position in the queue."""
    registry, viewer = registry_of(request), viewer_of(request)
    for wait in registry.models.waits:
        if wait.request_id == id and viewer in (None, wait.client):
            return _waiting(wait)
    return describe(registry, registry.find(id, viewer))


def _waiting(wait: Wait) -> dict[str, Any]:
    """A request that nothing is known of yet but its model, which is being loaded."""
    facts = {"id": wait.request_id, "object": "request", "status": "loading", "model": wait.model, "progress": 0}
    return {**facts, "created_at": int(wait.since)}


@router.delete("/{id}")
async def cancel(request: Request, id: str) -> dict[str, object]:
    """End a request at the engine's next forward, or drop the result of one that is over."""
    registry = registry_of(request)
    job = registry.find(id, viewer_of(request))
    was_over = job.is_over
    if was_over:
        registry.forget(job)
    else:
        registry.cancel(job)
    return {"id": id, "object": f"{_object(job)}.deleted", "deleted": True, "aborted": not was_over}


def _object(job: RequestJob) -> str:
    return "video" if job.kind == "video" else "request"


@router.get("/{id}/content", responses={200: {"content": {"image/*": {}}}})
async def content(request: Request, id: str, index: int = Query(0, ge=0)) -> Response:
    """A result: the picture, film or sound itself, or a range of it."""
    registry = registry_of(request)
    return content_of(request, registry.find(id, viewer_of(request)), index)


def content_of(request: Request, job: RequestJob, index: int, variant: str = "video") -> Response:
    """Raises `ApiError`: 400 for an index beyond the last, 409 while it is under way, 404 where nothing was kept."""
    if job.error is not None:
        raise job.error
    if not job.is_over:
        text = f"request {job.id} is {job.state}, {job.progress} %; ask again when it is completed"
        raise ApiError(409, text, code="not_completed", headers={"Retry-After": "1"})
    if index >= len(job.parts):
        raise invalid(f"index is {index}; expected 0 to {len(job.parts) - 1}", "index")
    part = job.parts[index]
    file = part.file if variant == "video" else part.stills.get(variant)
    if file is None:
        text = "its result went with its answer; only results of asynchronous requests are kept"
        raise ApiError(404, text, code="no_content", param="id")
    job.collected = True
    return file_answer(request, file.data, file.media_type)


@router.get("/{id}/events", responses={200: {"content": {"text/event-stream": {}}}})
async def events(request: Request, id: str) -> Response:
    """Server-sent events: queued, started, step, preview, image, and last done or error."""
    registry = registry_of(request)
    job = registry.find(id, viewer_of(request))
    return EventStream(_frames(registry, job), registry.settings.stream_keep_alive_s)


async def _frames(registry: Registry, job: RequestJob) -> AsyncGenerator[Frame, None]:
    queue = job.watch()
    try:
        first = {"queued": "queued", "in_progress": "started"}.get(job.state)
        if first:
            yield first, describe(registry, job)
        while not job.is_over or not queue.empty():
            event = await queue.get()
            if event.kind not in ("done", "error") and not (event.kind == first == "started"):
                yield event.kind, await asyncio.to_thread(_data, job, event)
        yield "error" if job.error else "done", describe(registry, job)
    finally:
        job.watchers.remove(queue)


def _data(job: RequestJob, event: Event) -> dict[str, Any]:
    data: dict[str, Any] = {"id": job.id, "progress": job.progress}
    if event.part is not None:
        part = event.part
        data |= {"index": part.index, "step": event.step or part.step, "num_steps": part.num_steps, "rows": part.rows}
        if event.kind == "image":
            data |= {"seed": part.seed, "timings": timings(part.metrics)}
    if event.preview is not None:
        data |= {"b64_json": base64.b64encode(_png(event.preview)).decode(), "output_format": "png"}
    return data


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
