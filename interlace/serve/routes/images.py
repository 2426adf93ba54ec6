"""POST /v1/images/generations and /v1/images/edits, as OpenAI's Images API has them; streams with real previews."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from interlace.serve.answers import answer
from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import ApiError
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.orders.fields import EditFields, GenerationFields
from interlace.serve.orders.images import generation_order
from interlace.serve.orders.uploads import uploaded_edit
from interlace.serve.state import lanes_for, registry_of

router = APIRouter(tags=["images"], responses=ERRORS)


@router.post("/v1/images/generations", openapi_extra=body_of(GenerationFields))
async def generate(request: Request) -> Response:
    """Make pictures from a prompt. With `stream`: events; with `async`: 202 and a job."""
    fields = (await read_body(request)).as_fields(GenerationFields)
    order = await asyncio.to_thread(generation_order, fields, await lanes_for(request, fields.model))
    return await answer(request, order, fields, "generation")


@router.post("/v1/images/edits", openapi_extra=body_of(EditFields, files=("image", "mask")))
async def edit(request: Request) -> Response:
    """Change pictures as a prompt says. Files in a form, or base64 in JSON."""
    body = await read_body(request)
    fields = body.as_fields(EditFields)
    order = await asyncio.to_thread(uploaded_edit, fields, body.files, await lanes_for(request, fields.model))
    return await answer(request, order, fields, "edit")


@router.get("/files/{name}", include_in_schema=False)
async def file(request: Request, name: str) -> Response:
    """A picture that `response_format: url` named."""
    part = registry_of(request).part_named(name.partition(".")[0])
    if part is None or part.file is None:
        raise ApiError(404, "no such file; it never was, or has expired", code="file_not_found")
    headers = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": "default-src 'none'"}
    return Response(part.file.data, media_type=part.file.media_type, headers=headers)
