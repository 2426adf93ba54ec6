"""POST /v1/responses, OpenAI's: a conversation answered by the `image_generation` tool, also in a stream.

Every model here draws, so the tool need not be named. The last picture of the conversation is edited: from the input's
own items, from an item's id, or by `previous_response_id` as long as results are kept.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from interlace.serve.dialects.response_events import events_of, response_of
from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import invalid
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.jobs.models import Lanes
from interlace.serve.jobs.registry import Registry
from interlace.serve.jobs.waiting import finished, start, streamed
from interlace.serve.leniency.sift import sift
from interlace.serve.orders.chats import order_of
from interlace.serve.orders.conversation import read_conversation
from interlace.serve.orders.fields import GenerationFields, Name, Sampling
from interlace.serve.orders.order import Order
from interlace.serve.state import lanes_for, registry_of

router = APIRouter(tags=["dialects"], responses=ERRORS)
_TOOL = "image_generation"
_OF_TOOL = [*GenerationFields.names(), "type", "action", "input_image_mask"]
_OWN = ("input", "instructions", "stream", "tools", "tool_choice", "previous_response_id", "background", "store")


class ResponseFields(Sampling):
    """OpenAI's fields; those of the picture may stand at the top level too."""

    input: Annotated[str | list[Any], Field(min_length=1)]
    model: Name | None = None
    instructions: str | None = Field(None, description="A system message.")
    tools: list[dict[str, Any]] | None = Field(None, description="image_generation; others are ignored.")
    tool_choice: Any = None
    previous_response_id: Name | None = Field(None, description="The response whose picture is to be changed.")
    store: bool | None = Field(None, description="Keep the picture for --result-ttl, for the next response; true.")
    background: bool | None = Field(None, description="true is refused.")
    stream: bool | None = None
    user: Name | None = None


@router.post("/v1/responses", openapi_extra=body_of(ResponseFields, form=False))
async def respond(request: Request) -> Response:
    """One response with the text that a stage wrote, if any, and an `image_generation_call`."""
    fields = (await read_body(request, forms=False)).as_fields(ResponseFields)
    registry = registry_of(request)
    messages = _messages(fields, registry, request.state.client)
    order = await asyncio.to_thread(_order, fields, messages, await lanes_for(request, fields.model))
    job = start(request, registry, order, "response", background=fields.store is not False and not fields.stream)
    job.collected = True  # nobody needs to come for it
    if fields.stream:
        job.background = fields.store is not False
        return streamed(registry, job, lambda events: events_of(job, events, fields.tools or []))
    await finished(request, registry, job)
    content = await asyncio.to_thread(response_of, job, fields.tools or [])
    registry.release(job)
    return JSONResponse(content)


def _order(fields: ResponseFields, messages: list[dict[str, Any]], lanes: Lanes) -> Order:
    if fields.background:
        text = "background is true; expected false: stream, or use /v1/images/generations with async"
        raise invalid(text, "background")
    talk = read_conversation(messages, "input")
    given = fields.model_dump(exclude_none=True, exclude=set(_OWN))
    tool, warnings = _tool(fields.tools or [], lanes.settings.strict_fields)
    mask = tool.pop("input_image_mask", None)
    if tool.pop("action", "auto") == "generate":
        talk = replace(talk, earlier=None)
    tool.pop("model", None)  # the tool's own model; ours is the response's
    values = {**tool, **given, "stream": fields.stream}
    return order_of(talk, values, lanes, [*fields.warnings, *warnings], param="input", mask=mask)


def _tool(tools: list[dict[str, Any]], strict: bool) -> tuple[dict[str, Any], list[str]]:
    """What the image tool is told; other tools are ignored."""
    told: dict[str, Any] = {}
    warnings: list[str] = []
    for tool in tools:
        if tool.get("type") == _TOOL:
            told, more = sift({name: value for name, value in tool.items() if name != "type"}, _OF_TOOL, strict=strict)
            warnings += more
        else:
            name = str(tool.get("name") or tool.get("type"))[:60]
            warnings.append(f"the tool {name} is ignored: this server calls no tools, it draws")
    return told, warnings


def _messages(fields: ResponseFields, registry: Registry, client: str) -> list[dict[str, Any]]:
    """The input as messages, with the pictures that its ids stand for. On the event loop: the registry is its."""
    items = [{"role": "user", "content": fields.input}] if isinstance(fields.input, str) else fields.input
    if not all(isinstance(item, Mapping) for item in items):
        raise invalid("input has items that are no objects; expected messages", "input")
    told = [{"role": "system", "content": fields.instructions}] if fields.instructions else []
    earlier = [_kept(registry, client, fields.previous_response_id)] if fields.previous_response_id else []
    return [*told, *earlier, *(_with_result(dict(item), registry, client) for item in items)]


def _with_result(item: dict[str, Any], registry: Registry, client: str) -> dict[str, Any]:
    """A call that is named by its id alone gets the picture that it made."""
    kind, name = item.get("type"), str(item.get("id", ""))
    if kind in ("image_generation_call", "item_reference") and name.startswith("ig_") and not item.get("result"):
        return _kept(registry, client, name)
    return item


def _kept(registry: Registry, client: str, name: str) -> dict[str, Any]:
    """The picture behind `resp_ID` or `ig_ID`. Raises `ApiError` where it isn't kept any more."""
    whole = name.removeprefix("resp_").removeprefix("ig_")
    viewer = client if client.startswith("key:") else None
    parts = (
        part
        for job in reversed(registry.jobs)
        if viewer in (None, job.client)
        for part in reversed(job.parts)
        if part.file is not None and whole in (job.id, f"{job.id}.{part.index}")
    )
    part = next(parts, None)
    if part is None or part.file is None:
        text = f"{name[:100]} is not kept here; send its picture in input, as an image_generation_call with a result"
        raise invalid(text, "previous_response_id", "previous_response_not_found")
    return {"type": "image_generation_call", "result": part.file.data}
