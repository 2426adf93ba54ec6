"""The application: routes, the gate around them, what starts and stops with it."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from typing import TypeGuard

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from interlace import __version__
from interlace.async_omni import AsyncOmni
from interlace.models.films.lengths import begins_with_picture
from interlace.request import Request as OmniRequest
from interlace.request import SamplingParams
from interlace.serve.collector import EngineCollector
from interlace.serve.dialects import a1111, a1111_info, gemini, openrouter, responses, sglang, variations
from interlace.serve.http.auth import Keys
from interlace.serve.http.elsewhere import nearest_endpoint
from interlace.serve.http.errors import ApiError
from interlace.serve.http.forwarded import path_of
from interlace.serve.jobs.models import Lane, make_lanes
from interlace.serve.jobs.registry import Registry
from interlace.serve.jobs.repository import ModelRepository
from interlace.serve.jobs.staged import staged
from interlace.serve.layers import add_layers
from interlace.serve.metrics import ServerMetrics
from interlace.serve.pages import add_pages
from interlace.serve.routes import audio, chat, generate, images, loras, probes, requests, status, videos
from interlace.serve.settings import ServeSettings
from interlace.serve.state import ServerState

logger = logging.getLogger("interlace.serve")
# Whoever has a `router`: a new endpoint is a module of `routes` or `dialects`, and its name here.
ENDPOINTS = [images, videos, audio, requests, generate, chat, loras, status, probes, responses, variations, openrouter,
              sglang, gemini, a1111, a1111_info]  # fmt: skip


def create_app(omni: AsyncOmni, settings: ServeSettings | None = None, edit_omni: AsyncOmni | None = None) -> FastAPI:
    """An ASGI application over `omni`, which draws, and `edit_omni`, which edits. Their owner closes them.

    Raises `InvalidRequestError` for settings that can't be used.
    """
    settings = settings or ServeSettings()
    return create_app_over(ModelRepository.around(make_lanes(omni, edit_omni, settings)), settings)


def create_app_over(models: ModelRepository, settings: ServeSettings) -> FastAPI:
    """As `create_app`, over several models. Their owner closes them."""
    metrics = ServerMetrics()
    registry = Registry(models, settings, metrics)
    metrics.registry.register(EngineCollector(registry))
    keys = Keys.of(settings)
    app = FastAPI(
        title="Interlace",
        version=__version__,
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.server = ServerState(settings, models, registry, metrics, keys)
    for endpoint in ENDPOINTS:
        app.include_router(endpoint.router)
    add_pages(app)
    app.add_exception_handler(404, _no_such_path)
    add_layers(app, settings, keys, metrics)
    return app


async def _no_such_path(request: Request, error: Exception) -> Response:
    """404 for a path that leads nowhere: it names the endpoint that was probably meant."""
    path = path_of(request.scope)
    routes = [route for endpoint in ENDPOINTS for route in endpoint.router.routes]
    found = nearest_endpoint(path, [route.path for route in routes if _is_path(route)])
    hint = f"did you mean {found}?" if found else "the endpoints are listed at /docs"
    return ApiError(404, f"there is no {path[:200]} here; {hint}", code="not_found").response()


def _is_path(route: BaseRoute) -> TypeGuard[Route]:
    return isinstance(route, Route)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: ServerState = app.state.server
    tasks = [asyncio.create_task(state.registry.run()), asyncio.create_task(_warm_up(state))]
    try:
        yield
    finally:
        for job in state.registry.live():
            state.registry.cancel(job, ApiError(503, "the server has stopped; send it again", code="draining"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _warm_up(state: ServerState) -> None:
    """A first small picture: what is slow only once is over before clients come."""
    try:
        await state.models.open_first()
        if state.settings.warmup:
            for lane in state.models.all:
                await asyncio.to_thread(_first, lane)
        state.warm = True
    except Exception as error:
        state.broken = f"{type(error).__name__}: {error}"
        logger.exception("the first picture could not be made")


def _first(lane: Lane) -> None:
    needs_picture = begins_with_picture(lane.model.pipeline, lane.parameters)
    if needs_picture or any(name != "prompt" for name in _required(lane)):
        return  # what it needs can't be guessed
    size = lane.model.limits.get("min_size")
    steps = 3 if lane.takes("num_inference_steps") else None
    extra = lane.area(size, size) if size else {}
    params = SamplingParams(num_inference_steps=steps, width=size, height=size, extra=extra)
    request = OmniRequest(
        request_id=f"warm-up-{secrets.token_hex(4)}", prompt="warm-up", sampling=params, preview_every=1
    )
    output = lane.omni.submit(staged(request, lane), listener=lambda progress: None).result()
    if output.error is not None:
        raise output.error


def _required(lane: Lane) -> list[str]:
    kinds = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")
    return [
        name for name, p in lane.parameters.items() if p.kind.name in kinds and p.default is p.empty and name != "self"
    ]
