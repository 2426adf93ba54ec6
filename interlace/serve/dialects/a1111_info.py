"""What AUTOMATIC1111's clients ask before they draw: options, models, samplers; and what a file says of itself."""

import asyncio
import io
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image

from interlace.models.schedulers import SPACINGS, sampler_names
from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import ApiError
from interlace.serve.http.openapi import ERRORS
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.settings import ServeSettings
from interlace.serve.state import lanes_of, models_of, state_of

router = APIRouter(prefix="/sdapi/v1", tags=["dialects"], responses=ERRORS)
_MOST_CHOICES = 10_000  # clients whose choice of a model is kept
_NOTHING = ("upscalers", "sd-vae", "sd-modules", "hypernetworks", "face-restorers", "prompt-styles",
            "latent-upscale-modes", "realesrgan-models", "script-info", "extensions")  # fmt: skip
_EXIF_FOLDER, _USER_COMMENT = 0x8769, 0x9286  # EXIF 2.32


@router.get("/options", include_in_schema=False)
async def options(request: Request) -> dict[str, object]:
    """The model that this client's requests go to."""
    chosen = state_of(request).chosen.get(request.state.client, lanes_of(request).draw.name)
    return {"sd_model_checkpoint": chosen, "samples_format": "png", "sd_vae": "Automatic"}


@router.post("/options", include_in_schema=False)
async def choose(request: Request) -> None:
    """`sd_model_checkpoint` chooses the model of this client's further requests; other options change nothing here."""
    body = (await read_body(request, forms=False)).values
    name = body.get("sd_model_checkpoint")
    others = sorted(body.keys() - {"sd_model_checkpoint"})
    if others:
        request.state.warnings.append(f"options are ignored: {', '.join(others)[:300]}")
    if not name:
        return
    served, chosen = models_of(request).names, state_of(request).chosen
    if name not in served:
        text = f"model {str(name)[:80]!r} is not served here; expected {' or '.join(served)}"
        raise ApiError(404, text, code="model_not_found", param="sd_model_checkpoint")
    if len(chosen) < _MOST_CHOICES or request.state.client in chosen:
        chosen[request.state.client] = str(name)


@router.get("/sd-models", include_in_schema=False)
async def models(request: Request) -> list[dict[str, object]]:
    """What is served."""
    facts = {"hash": None, "sha256": None, "config": None}
    return [{"title": name, "model_name": name, "filename": name, **facts} for name in models_of(request).names]


@router.get("/samplers", include_in_schema=False)
async def samplers(request: Request) -> list[dict[str, Any]]:
    """Those that the model can use; Automatic is its own."""
    names = sampler_names(lanes_of(request).draw.model.pipeline)
    own = {"name": "Automatic", "aliases": ["automatic", "default"], "options": {}}
    return [own, *({"name": name, "aliases": [name.lower()], "options": {}} for name in names)]


@router.get("/schedulers", include_in_schema=False)
async def schedulers() -> list[dict[str, object]]:
    """How a sampler's noise levels may be spaced."""
    facts = {"aliases": None, "default_rho": -1, "need_inner_model": False}
    return [{"name": name.lower().replace(" ", "_"), "label": name, **facts} for name in SPACINGS]


@router.get("/loras", include_in_schema=False)
async def loras(request: Request) -> list[dict[str, object]]:
    """Adapters that a request may name."""
    names = lanes_of(request).draw.loras.names
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]


@router.get("/embeddings", include_in_schema=False)
async def embeddings() -> dict[str, object]:
    """None."""
    return {"loaded": {}, "skipped": {}}


@router.get("/scripts", include_in_schema=False)
async def scripts() -> dict[str, object]:
    """None."""
    return {"txt2img": [], "img2img": []}


@router.get("/cmd-flags", include_in_schema=False)
@router.get("/memory", include_in_schema=False)
async def empty() -> dict[str, object]:
    """Nothing that a client could use."""
    return {}


@router.post("/refresh-checkpoints", include_in_schema=False)
@router.post("/refresh-loras", include_in_schema=False)
@router.post("/unload-checkpoint", include_in_schema=False)
@router.post("/reload-checkpoint", include_in_schema=False)
async def refresh() -> None:
    """Nothing to do: what is served is known when the server starts."""


async def nothing() -> list[object]:
    """None of these are here."""
    return []


for name in _NOTHING:
    router.add_api_route(f"/{name}", nothing, methods=["GET"], include_in_schema=False)


@router.post("/png-info", include_in_schema=False)
async def png_info(request: Request) -> dict[str, object]:
    """How a picture says that it was made."""
    body = (await read_body(request, forms=False)).values
    text = await asyncio.to_thread(_text_of, body.get("image"), lanes_of(request).settings)
    return {"info": text, "items": {"parameters": text} if text else {}, "parameters": parameters_of(text)}


def _text_of(value: Any, settings: ServeSettings) -> str:
    data = image_bytes(value, settings)
    decode_image(data, settings)  # refuses what is no picture, or too large
    with Image.open(io.BytesIO(data)) as image:
        comment = image.getexif().get_ifd(_EXIF_FOLDER).get(_USER_COMMENT, b"")
        text = image.info.get("parameters")
    if not isinstance(text, str) and isinstance(comment, bytes):
        text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be", "replace")
    return text if isinstance(text, str) else ""


def parameters_of(text: str) -> Mapping[str, object]:
    """The words of such a text by their names: prompt, negative prompt, and the facts of its last line."""
    lines = text.splitlines()
    if not lines:
        return {}
    facts = dict(re.findall(r"([A-Z][A-Za-z ]{0,40}): ([^,]*)", lines[-1]))
    negative = next((line for line in lines if line.startswith("Negative prompt: ")), "")
    words = [line for line in lines[: -1 if facts else None] if line != negative]
    return {"Prompt": "\n".join(words), "Negative prompt": negative.removeprefix("Negative prompt: "), **facts}
