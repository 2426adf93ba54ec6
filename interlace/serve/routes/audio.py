"""/v1/audio/generate, and /v1/audio/speech in OpenAI's shape, of models that make sound: the answer is the file."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from interlace.serve.http.bodies import read_body
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.jobs.waiting import finished, start
from interlace.serve.orders.fields import DescribedSoundFields, SoundFields
from interlace.serve.orders.films import sound_order
from interlace.serve.orders.order import Order
from interlace.serve.state import lanes_for, registry_of

router = APIRouter(prefix="/v1/audio", tags=["audio"], responses=ERRORS)
_FILES: dict[int | str, dict[str, Any]] = {200: {"content": {"audio/*": {}}}}


@router.post("/generate", openapi_extra=body_of(SoundFields), responses=_FILES)
async def generate(request: Request) -> Response:
    """Make a sound. With `async`: 202 and a job, whose file is at /v1/requests/{id}/content."""
    fields = (await read_body(request)).as_fields(SoundFields)
    order = await asyncio.to_thread(sound_order, fields, await lanes_for(request, fields.model, "sound"))
    if fields.run_async:
        return JSONResponse(start(request, registry_of(request), order, "audio", background=True).describe(), 202)
    return await _answer(request, order)


@router.post("/speech", openapi_extra=body_of(DescribedSoundFields, form=False), responses=_FILES)
async def speech(request: Request) -> Response:
    """OpenAI's way to ask for sound: what the input describes, in MP3 unless said otherwise."""
    fields = (await read_body(request, forms=False)).as_fields(DescribedSoundFields)
    fields.response_format = fields.response_format or "mp3"
    order = await asyncio.to_thread(sound_order, fields, await lanes_for(request, fields.model, "sound"))
    return await _answer(request, order)


async def _answer(request: Request, order: Order) -> Response:
    registry = registry_of(request)
    job = start(request, registry, order, "audio")
    await finished(request, registry, job)
    file, seed = job.parts[0].file, job.parts[0].seed
    assert file is not None
    registry.release(job)
    return Response(file.data, media_type=file.media_type, headers={"X-Interlace-Seed": str(seed)})
