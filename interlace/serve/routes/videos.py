"""/v1/videos in the shape of OpenAI's videos API: created, polled, downloaded, remixed, cancelled, deleted."""

import asyncio
from typing import Any, Literal, get_args

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.jobs.job import RequestJob
from interlace.serve.jobs.waiting import finished, start
from interlace.serve.orders.fields import RemixFields, VideoFields
from interlace.serve.orders.films import film_order, remixed
from interlace.serve.orders.order import Order
from interlace.serve.routes.requests import content_of
from interlace.serve.state import lanes_for, registry_of, viewer_of

router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=ERRORS)
Variant = Literal["video", "thumbnail", "spritesheet"]
_FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"video/mp4": {}, "image/webp": {}, "image/jpeg": {}}},
    206: {"description": "A range"},
}


@router.post("", openapi_extra=body_of(VideoFields, files=()))
async def create(request: Request) -> dict[str, object]:
    """Start a video; ask for it by its id."""
    order = await _order(request)
    return start(request, registry_of(request), order, "video", background=True).describe()


@router.post("/sync", openapi_extra=body_of(VideoFields, files=()), responses=_FILES)
async def create_and_wait(request: Request) -> Response:
    """Make a video; the answer is the file. A client that leaves ends it."""
    order = await _order(request)
    registry = registry_of(request)
    job = start(request, registry, order, "video")
    await finished(request, registry, job)
    file, part = job.parts[0].file, job.parts[0]
    assert file is not None
    headers = {"X-Interlace-Seed": str(part.seed), "X-Video-Id": job.id}
    registry.release(job)
    return Response(file.data, media_type=file.media_type, headers=headers)


async def _order(request: Request) -> Order:
    body = await read_body(request)
    fields = body.as_fields(VideoFields)
    return await asyncio.to_thread(film_order, fields, body.files, await lanes_for(request, fields.model, "film"))


def _find(request: Request, id: str) -> RequestJob:
    job = registry_of(request).find(id, viewer_of(request))
    if job.kind != "video":
        raise ApiError(404, f"{id} is no video; see /v1/requests", code="request_not_found", param="id")
    return job


@router.get("")
async def listed(
    request: Request, limit: int = Query(20, ge=1, le=100), after: str | None = None, order: str = "desc"
) -> dict[str, object]:
    """Newest first, unless `order` is asc; `after` is the id of the last one seen."""
    viewer = viewer_of(request)
    if order not in ("asc", "desc"):
        raise invalid(f"order is {order[:20]!r}; expected asc or desc", "order")
    jobs = [job for job in registry_of(request).jobs if job.kind == "video" and viewer in (None, job.client)]
    if order == "desc":
        jobs.reverse()
    ids = [job.id for job in jobs]
    start = ids.index(after) + 1 if after in ids else 0
    page = jobs[start : start + limit]
    data = [job.describe() for job in page]
    edges = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return {"object": "list", "data": data, **edges, "has_more": start + limit < len(jobs)}


@router.get("/{id}")
async def one(request: Request, id: str) -> dict[str, object]:
    """Its status and progress."""
    return _find(request, id).describe()


@router.post("/{id}/remix", openapi_extra=body_of(RemixFields, files=()))
async def remix(request: Request, id: str) -> dict[str, Any]:
    """The same video, seed and all, from another prompt: a new job."""
    job = _find(request, id)
    fields = (await read_body(request)).as_fields(RemixFields)
    order = await asyncio.to_thread(remixed, job, fields.prompt, await lanes_for(request, job.order.lane.name))
    return start(request, registry_of(request), order, "video", background=True).describe()


@router.post("/{id}/cancel")
async def cancel(request: Request, id: str) -> dict[str, Any]:
    """End it at the engine's next forward; it stays, as failed, until it is deleted."""
    job = _find(request, id)
    registry_of(request).cancel(job)
    return job.describe()


@router.get("/{id}/content", responses=_FILES)
async def content(request: Request, id: str, variant: str = "video") -> Response:
    """The file, or a range of it; `variant` may be thumbnail (WebP) or spritesheet (JPEG)."""
    if variant not in get_args(Variant):
        raise invalid(f"variant is {variant[:40]!r}; expected video, thumbnail or spritesheet", "variant")
    return content_of(request, _find(request, id), 0, variant)


@router.delete("/{id}")
async def delete(request: Request, id: str) -> dict[str, object]:
    """End it, and drop its result."""
    registry_of(request).forget(_find(request, id))
    return {"id": id, "object": "video.deleted", "deleted": True}
