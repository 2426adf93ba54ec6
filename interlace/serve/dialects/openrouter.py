"""POST /v1/images, as OpenRouter's images API has it: a prompt, and pictures to work from in `input_references`."""

import asyncio
import json

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from interlace.serve.answers import answer
from interlace.serve.http.bodies import read_body
from interlace.serve.http.openapi import ERRORS
from interlace.serve.orders.fields import EditFields, GenerationFields
from interlace.serve.orders.images import generation_order
from interlace.serve.orders.uploads import uploaded_edit
from interlace.serve.state import lanes_for

router = APIRouter(tags=["dialects"], responses=ERRORS)


@router.post("/v1/images", include_in_schema=False)
async def images(request: Request) -> Response:
    """As generations; as edits where there are pictures."""
    body = await read_body(request)
    fields: GenerationFields | EditFields
    if body.values.get("input_references") or body.values.get("images") or body.files:
        edited = fields = body.as_fields(EditFields)
        order = await asyncio.to_thread(uploaded_edit, edited, body.files, await lanes_for(request, edited.model))
    else:
        drawn = fields = body.as_fields(GenerationFields)
        order = await asyncio.to_thread(generation_order, drawn, await lanes_for(request, drawn.model))
    return _counted(await answer(request, order, fields, "edit" if order.request.images else "generation"))


def _counted(answered: Response) -> Response:
    """With tokens under the names that OpenRouter gives them."""
    if not isinstance(answered, JSONResponse) or answered.status_code != 200:
        return answered
    content = json.loads(bytes(answered.body))
    usage = content["usage"]
    usage |= {"prompt_tokens": usage["input_tokens"], "completion_tokens": usage["output_tokens"]}
    return JSONResponse(content)
