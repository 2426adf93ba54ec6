"""POST /v1/images/variations, OpenAI's: a picture like another one, where the model can make one without words."""

import asyncio
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from interlace.serve.answers import answer
from interlace.serve.http.bodies import Body, read_body
from interlace.serve.http.errors import invalid
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.jobs.models import Lane, Lanes
from interlace.serve.orders.fields import EditFields
from interlace.serve.orders.order import Order
from interlace.serve.orders.uploads import uploaded_edit
from interlace.serve.state import lanes_for

router = APIRouter(tags=["dialects"], responses=ERRORS)


class VariationFields(EditFields):
    """As an edit, without words."""

    needs_words: ClassVar[bool] = False
    prompt: Annotated[str, Field(max_length=32_000)] = Field("", description="May be left out.")
    image: Any = Field(None, description="The picture.")


@router.post("/v1/images/variations", openapi_extra=body_of(VariationFields, files=("image",)))
async def vary(request: Request) -> Response:
    """A form with the picture, or JSON with base64."""
    body = await read_body(request)
    fields = body.as_fields(VariationFields)
    order = await asyncio.to_thread(_order, fields, body, await lanes_for(request, fields.model))
    return await answer(request, order, fields, "edit")


def _order(fields: VariationFields, body: Body, lanes: Lanes) -> Order:
    lane = lanes.choose(fields.model, edit=True)
    if not can_vary(lane):
        text = f"{lane.name} changes a picture as words say and makes no variations; use /v1/images/edits with a prompt"
        raise invalid(text, "model", "variations_not_served")
    return uploaded_edit(fields, body.files, lanes)


def can_vary(lane: Lane) -> bool:
    """Whether its pipeline starts from a picture and needs no words: image to image, or made for variations."""
    return lane.takes("strength") or not lane.takes("prompt") or "Variation" in lane.pipeline_name
