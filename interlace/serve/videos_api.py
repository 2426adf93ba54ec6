"""/v1/videos in the shape of OpenAI's videos API: created, polled, downloaded, deleted. Files are animated WebP."""

import asyncio
from typing import Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from interlace.serve.bodies import Body, read_body
from interlace.serve.errors import ApiError, invalid
from interlace.serve.fields import VideoFields
from interlace.serve.job import Job
from interlace.serve.media import decode_image, image_bytes
from interlace.serve.openapi import ERRORS, body_of
from interlace.serve.order import Order, check_prompt, make_sampling, resolve_seeds, resolve_size, resolve_steps
from interlace.serve.requests_api import content_of
from interlace.serve.state import lanes_of, registry_of, viewer_of

router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=ERRORS)
_FPS = 16  # where a model's defaults don't say


@router.post("", openapi_extra=body_of(VideoFields, files=()))
async def create(request: Request) -> dict[str, Any]:
    """Start a video; ask for it by its id."""
    body = await read_body(request)
    fields = body.as_fields(VideoFields)
    order = await asyncio.to_thread(_order, request, fields, body)
    state = request.state
    job = registry_of(request).submit(
        order, job_id=state.request_id, kind="video", client=state.client, background=True
    )
    return job.describe()


def _order(request: Request, fields: VideoFields, body: Body) -> Order:
    lanes = lanes_of(request)
    lane, settings = lanes.choose(fields.model, edit=False), lanes.settings
    if not lane.makes_video:
        raise invalid(f"{lane.name} makes pictures; use /v1/images/generations", "model", "no_video_model")
    check_prompt(fields.prompt, settings)
    fps = float(lane.model.defaults.get("fps", _FPS))
    frames = _num_frames(fields, lane.default("num_frames"), fps)
    if frames > settings.max_frames:
        raise invalid(f"{frames} frames; this server allows 1 to {settings.max_frames}", "seconds")
    size = resolve_size(fields.size, fields.width, fields.height, lane, settings)
    steps = resolve_steps(fields.num_inference_steps, 1.0, lane, settings)
    images = _references(fields, body, lane.takes_image, lanes.settings)
    sampling = make_sampling(
        fields, lane, settings, n=1, size=size, num_steps=steps, extra={"num_frames": frames} if frames else None
    )
    order = Order(
        lane=lane,
        prompt=fields.prompt,
        sampling=sampling,
        seeds=resolve_seeds(fields, 1),
        size=size if all(size) else (lane.default("width"), lane.default("height")),
        num_steps=steps,
        images=images,
        seconds=f"{frames / fps:g}",
        user=fields.user,
        facts={"fps": fps},
    )
    order.check()
    return order


def _num_frames(fields: VideoFields, default: int | None, fps: float) -> int:
    """As asked for; of seconds, the next number that 4k + 1 gives, which is what video autoencoders take."""
    if fields.num_frames and fields.seconds:
        raise invalid("seconds and num_frames are given; expected one of them", "seconds")
    if fields.seconds:
        return max(1, round(float(fields.seconds) * fps / 4) * 4 + 1)
    return fields.num_frames or default or 1


def _references(fields: VideoFields, body: Body, takes: bool, settings: Any) -> list[Any]:
    files = [*body.files.get("input_reference", [])]
    if fields.input_reference is not None:
        files.append(fields.input_reference)
    if files and not takes:
        raise invalid("input_reference: this model makes videos from text alone; leave it out", "input_reference")
    return [decode_image(image_bytes(one, settings, "input_reference"), settings, "input_reference") for one in files]


def _find(request: Request, id: str) -> Job:
    job = registry_of(request).find(id, viewer_of(request))
    if job.kind != "video":
        raise ApiError(404, f"{id} is no video; see /v1/requests", code="request_not_found", param="id")
    return job


@router.get("")
async def listed(
    request: Request, limit: int = Query(20, ge=1, le=100), after: str | None = None, order: str = "desc"
) -> dict[str, Any]:
    """Newest first, unless `order` is asc; `after` is the id of the last one seen."""
    viewer = viewer_of(request)
    if order not in ("asc", "desc"):
        raise invalid(f"order is {order[:20]!r}; expected asc or desc", "order")
    jobs = [job for job in registry_of(request).jobs.values() if job.kind == "video" and viewer in (None, job.client)]
    if order == "desc":
        jobs.reverse()
    ids = [job.id for job in jobs]
    start = ids.index(after) + 1 if after in ids else 0
    page = jobs[start : start + limit]
    data = [job.describe() for job in page]
    edges = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return {"object": "list", "data": data, **edges, "has_more": start + limit < len(jobs)}


@router.get("/{id}")
async def one(request: Request, id: str) -> dict[str, Any]:
    """Its status and progress."""
    return _find(request, id).describe()


@router.get("/{id}/content", responses={200: {"content": {"image/webp": {}}}})
async def content(request: Request, id: str, variant: str = "video") -> Response:
    """The file."""
    if variant != "video":
        raise invalid(f"variant is {variant[:40]!r}; expected video", "variant")
    return content_of(_find(request, id), 0)


@router.delete("/{id}")
async def delete(request: Request, id: str) -> dict[str, Any]:
    """End it, and drop its result."""
    registry_of(request).forget(_find(request, id))
    return {"id": id, "object": "video.deleted", "deleted": True}
