"""AUTOMATIC1111's /sdapi/v1/txt2img and img2img, how far they are, and an end to them."""

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Query, Request

from interlace import __version__
from interlace.media.formats.pictures import a1111_text
from interlace.serve.dialects.a1111_fields import order_of, read_fields
from interlace.serve.http.bodies import read_body
from interlace.serve.http.openapi import ERRORS
from interlace.serve.jobs.job import RequestJob
from interlace.serve.jobs.registry import Registry
from interlace.serve.jobs.waiting import finished, start
from interlace.serve.state import lanes_for, registry_of, state_of

router = APIRouter(prefix="/sdapi/v1", tags=["dialects"], responses=ERRORS)
_KIND = "a1111"


@router.post("/txt2img", include_in_schema=False)
async def txt2img(request: Request) -> dict[str, object]:
    """Pictures from a prompt: `batch_size` times `n_iter`."""
    return await _drawn(request, edit=False)


@router.post("/img2img", include_in_schema=False)
async def img2img(request: Request) -> dict[str, object]:
    """Pictures from a picture; with `mask` only where it is white."""
    return await _drawn(request, edit=True)


async def _drawn(request: Request, *, edit: bool) -> dict[str, Any]:
    body = (await read_body(request, forms=False)).values
    fields = read_fields(body, request.state.strict_fields)
    chosen = state_of(request).chosen.get(request.state.client)
    order = await asyncio.to_thread(order_of, fields, await lanes_for(request, chosen), chosen, edit=edit)
    registry = registry_of(request)
    job = start(request, registry, order, _KIND)
    await finished(request, registry, job)
    answer = await asyncio.to_thread(_answer, job, body)
    registry.release(job)
    return answer


def _answer(job: RequestJob, body: Mapping[str, Any]) -> dict[str, Any]:
    images = [base64.b64encode(part.file.data).decode() for part in job.parts if part.file is not None]
    pictures = ("init_images", "mask")
    echoed = {name: value for name, value in body.items() if name not in pictures}
    answer = {"images": images, "parameters": echoed, "info": json.dumps(_info(job))}
    return {**answer, "warnings": list(job.order.warnings)} if job.order.warnings else answer


def _info(job: RequestJob) -> dict[str, Any]:
    order, seeds = job.order, [part.seed for part in job.parts]
    width, height = job.parts[0].size or order.size
    drawing = order.request.drawing
    negative = drawing.negative_prompt or ""
    texts = [_infotext(job, seed) for seed in seeds]
    return {
        "prompt": order.prompt,
        "all_prompts": [order.prompt] * len(seeds),
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(seeds),
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": width,
        "height": height,
        "steps": order.num_steps,
        "cfg_scale": drawing.true_cfg_scale if drawing.true_cfg_scale is not None else drawing.guidance_scale,
        "batch_size": len(seeds),
        "sd_model_name": order.lane.name,
        "denoising_strength": drawing.strength,
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "version": f"interlace {__version__}",
    }


def _infotext(job: RequestJob, seed: int) -> str:
    order = job.order
    width, height = job.parts[0].size or order.size
    resolved = order.lane.omni.arguments.resolved(order.request)
    facts = {"width": width, "height": height, "seed": seed, "model": order.lane.name}
    return a1111_text({"prompt": order.prompt, **resolved, **facts})


def _under_way(registry: Registry, client: str) -> list[RequestJob]:
    """That client's, the oldest first; those without a key are one client."""
    mine = client if client.startswith("key:") else None
    return [job for job in registry.live(mine) if job.kind == _KIND]


@router.get("/progress", include_in_schema=False)
async def progress(request: Request, skip_current_image: bool = Query(False)) -> dict[str, object]:
    """How far the oldest is, with its last preview."""
    registry = registry_of(request)
    jobs = _under_way(registry, request.state.client)
    state = {"skipped": False, "interrupted": False, "job": "", "job_count": len(jobs), "job_no": 0,
             "job_timestamp": "0", "sampling_step": 0, "sampling_steps": 0}  # fmt: skip
    if not jobs:
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    job = jobs[0]
    step = max(part.step for part in job.parts)
    steps = max(part.num_steps for part in job.parts)
    state |= {"job": job.id, "job_timestamp": str(int(job.created)), "sampling_step": step, "sampling_steps": steps}
    done = job.progress / 100
    left = registry.admission.service_s * (1 - done)
    preview = next((part.preview for part in job.parts if part.preview is not None), None)
    shown = None if preview is None or skip_current_image else await asyncio.to_thread(_png, preview, job)
    return {"progress": done, "eta_relative": round(left, 2), "state": state, "current_image": shown, "textinfo": None}


def _png(preview: Any, job: RequestJob) -> str:
    width, height = job.order.size
    buffer = io.BytesIO()
    size = (width, height) if width and height else (preview.width * 8, preview.height * 8)
    preview.resize(size).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@router.post("/interrupt", include_in_schema=False)
@router.post("/skip", include_in_schema=False)
async def interrupt(request: Request) -> dict[str, object]:
    """Ends what that client has under way at the next forward; its requests are answered with 409."""
    registry = registry_of(request)
    for job in _under_way(registry, request.state.client):
        registry.cancel(job)
    return {}
