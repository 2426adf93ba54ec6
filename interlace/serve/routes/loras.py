"""Adapters over HTTP: which there are, loading and unloading, as vLLM's server has it."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from interlace.adapters import LoraChoice
from interlace.errors import UnknownAdapterError
from interlace.serve.http.bodies import read_body
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.orders.fields import Fields
from interlace.serve.state import lanes_of

router = APIRouter(tags=["loras"], responses=ERRORS)
_Text = Annotated[str, Field(min_length=1, max_length=1024)]


class LoadFields(Fields):
    """POST /v1/load_lora_adapter."""

    lora_name: _Text = Field(description="What requests call it.")
    lora_path: _Text | None = Field(None, description="A file or folder under --lora-dir; left out: a known adapter.")
    load_inplace: bool | None = Field(None, description="vLLM's; another file under a name takes its place anyway.")


class UnloadFields(Fields):
    """POST /v1/unload_lora_adapter."""

    lora_name: _Text = Field(description="As in /v1/loras.")
    lora_int_id: int | None = Field(None, description="vLLM's; not used.")


@router.get("/v1/loras")
async def loras(request: Request) -> dict[str, object]:
    """Every adapter that a request may name, and what is known of those that are loaded."""
    return {"object": "list", "data": _described(request)}


@router.post("/v1/load_lora_adapter", openapi_extra=body_of(LoadFields, form=False))
async def load(request: Request) -> dict[str, object]:
    """Load an adapter; it stays until it is unloaded or --max-loras others were used since."""
    fields = (await read_body(request, forms=False)).as_fields(LoadFields)
    choice = LoraChoice(fields.lora_name, path=fields.lora_path)
    for library in [lane.loras for lane in lanes_of(request).all]:
        await asyncio.to_thread(library.bring, choice)
    return {"object": "lora", "id": fields.lora_name, "loaded": True}


@router.post("/v1/unload_lora_adapter", openapi_extra=body_of(UnloadFields, form=False))
async def unload(request: Request) -> dict[str, object]:
    """Free an adapter's memory, once the requests that run with it have ended."""
    fields = (await read_body(request, forms=False)).as_fields(UnloadFields)
    missing: UnknownAdapterError | None = None
    libraries = [lane.loras for lane in lanes_of(request).all]
    for library in libraries:
        try:
            await asyncio.to_thread(library.unload, fields.lora_name)
        except UnknownAdapterError as error:  # the model that edits may never have loaded it
            missing = error if library is libraries[0] else missing
    if missing is not None:
        raise missing
    return {"object": "lora", "id": fields.lora_name, "loaded": False}


def _described(request: Request) -> list[dict[str, Any]]:
    library = lanes_of(request).draw.loras
    loaded = library.loras
    return [
        {"object": "lora", "id": name, "loaded": name in loaded}
        | (
            {"sha256": loaded[name].sha256, "bytes": loaded[name].num_bytes, "components": loaded[name].components}
            if name in loaded
            else {}
        )
        for name in library.names
    ]
