"""The application: routes, the gate around them, what starts and stops with it."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from interlace import __version__
from interlace.async_omni import AsyncOmni
from interlace.errors import InterlaceError
from interlace.request import Progress, SamplingParams
from interlace.serve import chat_api, generate_api, images_api, requests_api, status_api, videos_api
from interlace.serve.auth import Keys
from interlace.serve.errors import ApiError, answer_error
from interlace.serve.gate import Gate
from interlace.serve.lanes import Lane, make_lanes
from interlace.serve.metrics import ServerMetrics
from interlace.serve.registry import Registry
from interlace.serve.settings import ServeSettings
from interlace.serve.stages import for_stages
from interlace.serve.state import ServerState

logger = logging.getLogger("interlace.serve")
_PREVIEW_S = 10.0  # the first takes longest: its map from latents to colours is fitted
_STATIC = Path(__file__).parent / "static"
_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)


def create_app(omni: AsyncOmni, settings: ServeSettings | None = None, edit_omni: AsyncOmni | None = None) -> FastAPI:
    """An ASGI application over `omni`, which draws, and `edit_omni`, which edits. Their owner closes them.

    Raises `InvalidRequestError` for settings that can't be used.
    """
    settings = settings or ServeSettings()
    metrics = ServerMetrics()
    lanes = make_lanes(omni, edit_omni, settings)
    registry = Registry(lanes, settings, metrics)
    metrics.follow(registry)
    keys = Keys.of(settings)
    app = FastAPI(title="Interlace", version=__version__, lifespan=_lifespan, redirect_slashes=False)
    app.state.server = ServerState(settings, lanes, registry, metrics, keys)
    for api in (images_api, videos_api, requests_api, generate_api, chat_api, status_api):
        app.include_router(api.router)
    _add_page(app)
    for kind in (ApiError, InterlaceError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(Gate, settings=settings, keys=keys, metrics=metrics)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origin),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return app


def _add_page(app: FastAPI) -> None:
    """The page and its files, where they are there."""
    index = _STATIC / "index.html"
    if not index.is_file():
        return
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(index, headers={"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"})


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
        if state.settings.warmup:
            for lane in state.lanes.all:
                await asyncio.to_thread(_first, lane)
        state.warm = True
    except Exception as error:
        state.broken = f"{type(error).__name__}: {error}"
        logger.exception("the first picture could not be made")


def _first(lane: Lane) -> None:
    if any(name != "prompt" for name in _required(lane)):
        return  # what it needs can't be guessed
    size = lane.model.limits.get("min_size")
    steps = 3 if lane.takes("num_inference_steps") else None
    extra = lane.area(size, size) if size else {}
    params = SamplingParams(num_inference_steps=steps, width=size, height=size, extra=extra)
    previewed = threading.Event()

    def look(progress: Progress) -> None:
        if progress.preview is not None:
            previewed.set()

    output = lane.omni.submit("warm-up", for_stages(params, lane), on_progress=look, preview_every=1).result()
    if output.error is not None:
        raise output.error
    lane.previews = previewed.wait(_PREVIEW_S)


def _required(lane: Lane) -> list[str]:
    kinds = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")
    return [
        name for name, p in lane.parameters.items() if p.kind.name in kinds and p.default is p.empty and name != "self"
    ]
