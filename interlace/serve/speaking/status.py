"""How a speaking server is: health, what it serves, its counts, its requests."""

import platform
from importlib import metadata
from time import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from interlace import __version__
from interlace.serve.http.errors import ApiError
from interlace.serve.http.openapi import ERRORS
from interlace.serve.speaking.state import SpeakingState, speaking

router = APIRouter(tags=["status"], responses=ERRORS)
_LIMITS = ("max_body_mb", "max_input_pixels", "max_input_images", "max_prompt_chars", "max_queued_requests",
           "max_requests_per_key", "allow_image_urls", "accept_any_model")  # fmt: skip


@router.get("/health")
async def health(request: Request) -> Response:
    """200 when requests are served; 503 before the first answer was made, and while shutting down."""
    state = speaking(request)
    problem = None if state.warm else state.broken or "warming up"
    if state.registry.admission.draining:
        problem = "shutting down"
    if problem is not None:
        raise ApiError(503, problem, code="not_ready", headers={"Retry-After": "2"})
    return JSONResponse({"status": "ok"})


@router.get("/v1/models")
async def models(request: Request) -> dict[str, object]:
    """What a request may give as `model`."""
    state = speaking(request)
    return {"object": "list", "data": [_model(state, name) for name in state.names]}


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> dict[str, object]:
    """One of them; ids may hold slashes."""
    state = speaking(request)
    if model not in state.names:
        raise ApiError(404, f"model {model[:80]!r} is not served here; see /v1/models", code="model_not_found")
    return _model(state, model)


def _model(state: SpeakingState, name: str) -> dict[str, Any]:
    tasks = ["chat", *(["speech"] if state.about.get("voices") else [])]
    own = {"id": name, "object": "model", "created": int(state.started), "owned_by": "interlace"}
    return {**own, "root": state.names[0], "tasks": tasks, "modalities": state.about.get("modalities")}


@router.get("/info")
async def info(request: Request) -> dict[str, object]:
    """The model, what goes in and comes out, its voices, the server's limits."""
    state = speaking(request)
    packages = ("torch", "transformers", "fastapi", "uvicorn")
    return {
        **state.about,
        "models": state.names,
        "stages": state.omni.describe()["stages"],
        "server": {name: getattr(state.settings, name) for name in _LIMITS},
        "versions": {"interlace": __version__, "python": platform.python_version(),
                     **{name: metadata.version(name) for name in packages}},
        "uptime_s": round(time() - state.started, 1),
    }  # fmt: skip


@router.get("/v1/stats")
async def stats(request: Request) -> dict[str, object]:
    """What runs, what waits, and how forwards were shared at each part."""
    state = speaking(request)
    live = [one.describe() for one in state.registry.live(_viewer(request))]
    return {
        "running": [one for one in live if one["status"] == "in_progress"],
        "waiting": [one for one in live if one["status"] == "queued"],
        "engines": state.omni.pipeline.links[0].stage.stats(),
        "service_s": round(state.registry.admission.service_s, 4),
    }


@router.get("/v1/requests")
async def requests(request: Request) -> dict[str, object]:
    """Those under way; with keys only one's own."""
    found = speaking(request).registry.live(_viewer(request))
    return {"object": "list", "data": [one.describe() for one in found]}


@router.delete("/v1/requests/{name}")
async def cancel(request: Request, name: str) -> dict[str, object]:
    """End one: its text and its sound stop where they are."""
    registry = speaking(request).registry
    found = next((one for one in registry.live(_viewer(request)) if one.id == name), None)
    if found is None:
        text = f"no request {name[:80]!r} is under way; it never was, or it has ended"
        raise ApiError(404, text, code="request_not_found", param="id")
    registry.cancel(found)
    return {"id": name, "object": "request", "deleted": True}


def _viewer(request: Request) -> str | None:
    client: str | None = request.state.client
    return client if speaking(request).keys else None
