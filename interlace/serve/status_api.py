"""How the server is: health, what it serves, its counts. Cheap, and never waits for the engine."""

import platform
from importlib import metadata
from time import time
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from interlace import __version__
from interlace.serve.errors import ApiError
from interlace.serve.image_orders import STEPS
from interlace.serve.lanes import Lane
from interlace.serve.openapi import ERRORS
from interlace.serve.stages import counted_stages, described_stages
from interlace.serve.state import ServerState, lanes_of, registry_of, state_of, viewer_of

router = APIRouter(tags=["status"], responses=ERRORS)
_LIMITS = ("max_body_mb", "max_input_pixels", "max_input_images", "max_image_size", "max_steps", "max_n", "max_frames",
           "max_batch_prompts", "max_prompt_chars", "max_queued_requests", "max_requests_per_key", "allow_image_urls",
           "result_ttl", "accept_any_model")  # fmt: skip


@router.get("/health")
async def health(request: Request) -> Response:
    """200 when requests are served; 503 before the first picture was made, and while shutting down."""
    state = state_of(request)
    problem = _problem(state)
    if problem is not None:
        raise ApiError(503, problem, code="not_ready", headers={"Retry-After": "2"})
    return JSONResponse({"status": "ok"})


def _problem(state: ServerState) -> str | None:
    if state.registry.admission.draining:
        return "shutting down"
    if state.broken is not None:
        return f"the first picture could not be made: {state.broken}"
    if any(not lane.omni.engine.is_open for lane in state.lanes.all):
        return "an engine has stopped; restart the server"
    return None if state.warm else "warming up"


@router.get("/liveness")
async def liveness() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "alive"}


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of Interlace."""
    return {"version": __version__}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(state_of(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """What a request may give as `model`."""
    return {"object": "list", "data": [_model(request, name) for name in lanes_of(request).names]}


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> dict[str, Any]:
    """One of them; ids may hold slashes."""
    if model not in lanes_of(request).names:
        raise ApiError(404, f"model {model[:80]!r} is not served here; see /v1/models", code="model_not_found")
    return _model(request, model)


def _model(request: Request, name: str) -> dict[str, Any]:
    lanes = lanes_of(request)
    lane = next((lane for lane in lanes.all if lane.name == name), lanes.draw)
    edits = lane is lanes.edit or (name not in [one.name for one in lanes.all] and lanes.edit is not None)
    tasks = [*(["videos"] if lane.makes_video else ["generations"] if lane is lanes.draw else [])]
    return {
        "id": name,
        "object": "model",
        "created": int(state_of(request).started),
        "owned_by": "interlace",
        "root": lane.name,
        "tasks": [*tasks, *(["edits"] if edits else [])],
    }


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """Model, defaults, limits, versions, what can be edited, what shares forwards."""
    state = state_of(request)
    lanes = state.lanes
    settings = {name: getattr(state.settings, name) for name in _LIMITS}
    packages = ("torch", "diffusers", "transformers", "fastapi", "uvicorn")
    return {
        **_describe(lanes.draw),
        "models": lanes.names,
        "editing": {**_describe(lanes.edit), "several_images": lanes.edit.takes_several} if lanes.edit else None,
        "stages": described_stages(lanes.all),
        "server": settings,
        "quality_steps": {
            name: max(1, round((lanes.draw.default("num_inference_steps") or 1) * factor))
            for name, factor in STEPS.items()
        },
        "output_formats": ["png", "jpeg", "webp"],
        "versions": {
            "interlace": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "uptime_s": round(time() - state.started, 1),
    }


def _describe(lane: Lane) -> dict[str, Any]:
    names = ("width", "height", "num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt",
             "strength", "num_frames")  # fmt: skip
    defaults = {name: lane.default(name) for name in names if lane.takes(name)}
    facts = lane.omni.describe()
    return {**facts, "defaults": defaults, "batching": facts["exclusive"] or "requests share forwards at every step"}


@router.get("/v1/stats")
async def stats(request: Request) -> dict[str, Any]:
    """What runs, what waits, and which requests share the current forward. With keys, only one's own are told apart."""
    registry, viewer = registry_of(request), viewer_of(request)
    registry.refresh()
    places = registry.positions()
    running: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for job in registry.live():
        mine = viewer in (None, job.client)
        facts = job.describe(places.get(job.id))
        kept = ("id", "prompt", "step", "num_steps", "width", "height", "rows", "position", "kind")
        line = {name: facts[name] for name in kept} if mine else {"id": "other", "prompt": None, "rows": facts["rows"]}
        line = {"step": 0, "num_steps": 0, "width": None, "height": None, **line, "state": job.state}
        (waiting if job.state == "queued" else running).append(line)
        names |= {part.id: line["id"] for part in job.parts}
    engines = {lane.name: lane.omni.engine for lane in registry.lanes.all}
    counts = {name: engine.stats() for name, engine in engines.items()}
    return {
        "running": running,
        "waiting": waiting,
        "forwarding": list(dict.fromkeys(_sharing(registry, names))),
        "mean_rows": _merged(counts, "mean_rows"),
        "forwards": _merged(counts, "forwards"),
        "images_per_s": registry.images_per_s,
        "service_s": round(registry.admission.service_s, 4),
        "engines": counts,
        "stages": counted_stages(registry.lanes.all),
    }


def _sharing(registry: Any, names: dict[str, str]) -> list[str]:
    """The widest of the engines' current forwards: each engine has its own."""
    groups = [lane.omni.engine.forwarding() for lane in registry.lanes.all]
    return [names[part] for part in max(groups, key=len) if part in names]


def _merged(counts: dict[str, dict[str, Any]], what: str) -> dict[str, float]:
    """By module; where there are several engines, by model and module."""
    if len(counts) == 1:
        return dict(next(iter(counts.values()))[what])
    first = next(iter(counts))
    return {
        (module if model == first else f"{model}:{module}"): value
        for model, stats in counts.items()
        for module, value in stats[what].items()
    }
