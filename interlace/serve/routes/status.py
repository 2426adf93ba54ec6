"""How the server is: health, what it serves, its counts. Cheap, and never waits for the engine."""

import platform
from collections.abc import Mapping
from importlib import metadata
from time import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from interlace import __version__
from interlace.media.formats.table import FILMS, IMAGES, SOUNDS
from interlace.serve.http.errors import ApiError
from interlace.serve.http.openapi import ERRORS
from interlace.serve.jobs.models import Lane
from interlace.serve.orders.images import STEPS
from interlace.serve.state import ServerState, models_of, registry_of, state_of, viewer_of

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
    if any(not lane.omni.engine.is_open for lane in state.models.all):
        return "an engine has stopped; restart the server"
    return None if state.warm else "warming up"


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """What a request may give as `model`."""
    names = models_of(request).names
    listed = {"object": "list", "data": [_model(request, name) for name in names]}
    if "x-goog-api-key" in request.headers:  # Google's clients ask at the same place
        listed["models"] = [{"name": f"models/{name}", "displayName": name} for name in names]
    return listed


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> dict[str, object]:
    """One of them; ids may hold slashes."""
    if model not in models_of(request).names:
        raise ApiError(404, f"model {model[:80]!r} is not served here; see /v1/models", code="model_not_found")
    return _model(request, model)


def _model(request: Request, name: str) -> dict[str, Any]:
    found = models_of(request).lanes_named(name)
    if found is None:
        return {**_card(request, name), "root": name, "parent": None, "tasks": [], "status": "unloaded"}
    lanes = found
    lane = next((lane for lane in lanes.all if lane.name == name), lanes.draw)
    parent = lanes.draw.name if name in lanes.loras and name != lanes.draw.name else None
    edits = lane is lanes.edit or (name not in [one.name for one in lanes.all] and lanes.edit is not None)
    own = {"film": "videos", "sound": "audio", "pictures": "generations"}[lane.makes]
    tasks = [own] if lane is lanes.draw or lane.makes == "film" else []
    return {
        **_card(request, name),
        "root": lane.name,
        "parent": parent,
        "tasks": [*tasks, *(["edits"] if edits else [])],
        "status": "loaded",
    }


def _card(request: Request, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(state_of(request).started), "owned_by": "interlace"}


@router.get("/info")
async def info(request: Request, model: str | None = None) -> dict[str, Any]:
    """Model, defaults, limits, versions, what can be edited, what shares forwards; of several models, the one named."""
    state = state_of(request)
    lanes = state.models.lanes_named(model) if model else state.models.current
    if lanes is None:
        raise ApiError(503, f"{model} isn't loaded; a request that names it loads it", code="model_unloaded")
    settings = {name: getattr(state.settings, name) for name in _LIMITS}
    packages = ("torch", "diffusers", "transformers", "fastapi", "uvicorn")
    return {
        **_describe(lanes.draw),
        "models": state.models.names,
        "loading": state.models.describe(),
        "editing": {**_describe(lanes.edit), "several_images": lanes.edit.takes_several} if lanes.edit else None,
        "stages": [{**stage, "type": stage["stage_type"]} for lane in lanes.all for stage in lane.describe()["stages"]],
        "server": settings,
        "quality_steps": {
            name: max(1, round((lanes.draw.default("num_inference_steps") or 1) * factor))
            for name, factor in STEPS.items()
        },
        "output_formats": _formats(lanes.draw),
        "versions": {
            "interlace": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "uptime_s": round(time() - state.started, 1),
    }


def _formats(lane: Lane) -> list[str]:
    """What its results may be written in."""
    return {"film": list(FILMS), "sound": list(SOUNDS), "pictures": list(IMAGES)}[lane.makes]


def _describe(lane: Lane) -> dict[str, Any]:
    names = ("width", "height", "num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt",
             "strength", "num_frames")  # fmt: skip
    defaults = {name: lane.default(name) for name in names if lane.takes(name)}
    facts = lane.describe()
    defaults |= {} if lane.fps is None else {"fps": lane.fps}
    return {
        **facts,
        "makes": lane.makes,
        "defaults": defaults,
        "batching": facts["exclusive"] or "requests share forwards at every step",
    }


@router.get("/v1/stats")
async def stats(request: Request) -> dict[str, object]:
    """What runs, what waits, and which requests share the current forward. With keys, only one's own are told apart."""
    registry, viewer = registry_of(request), viewer_of(request)
    positions = registry.positions()
    running: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for job in registry.live():
        mine = viewer in (None, job.client)
        facts = job.describe(positions.get(job))
        kept = ("id", "prompt", "step", "num_steps", "width", "height", "rows", "position", "kind")
        line = {name: facts[name] for name in kept} if mine else {"id": "other", "prompt": None, "rows": facts["rows"]}
        line = {"step": 0, "num_steps": 0, "width": None, "height": None, **line, "state": job.state}
        (waiting if job.state == "queued" else running).append(line)
        names |= {part.id: line["id"] for part in job.parts}
    engines = {lane.name: lane.omni.engine for lane in registry.models.all}
    counts = {name: engine.statistics() for name, engine in engines.items()}
    return {
        "running": running,
        "waiting": waiting,
        "forwarding": list(dict.fromkeys(_sharing(registry, names))),
        "mean_rows": _merged({name: one.mean_rows for name, one in counts.items()}),
        "forwards": _merged({name: one.forwards for name, one in counts.items()}),
        "images_per_s": registry.images_per_s,
        "service_s": round(registry.admission.service_s, 4),
        "engines": {name: engine.stats() for name, engine in engines.items()},
        "models": registry.models.describe(),
        "stages": [one for lane in registry.models.all if lane.has_stages for one in lane.omni.pipeline.stats()],
    }


def _sharing(registry: Any, names: dict[str, str]) -> list[str]:
    """The widest of the engines' current forwards: each engine has its own."""
    groups = [lane.omni.engine.forwarding() for lane in registry.models.all]
    return [names[part] for part in max(groups, key=len, default=()) if part in names]


def _merged(counts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """By module; where there are several engines, by model and module."""
    if len(counts) == 1:
        return dict(next(iter(counts.values())))
    first = next(iter(counts), "")
    return {
        (module if model == first else f"{model}:{module}"): value
        for model, of_modules in counts.items()
        for module, value in of_modules.items()
    }
