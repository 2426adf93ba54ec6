"""The application of a speaking server: its routes, the gate around them, what starts and stops with it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.responses import FileResponse, Response

from interlace import __version__
from interlace.async_omni import AsyncOmni
from interlace.request import ARSamplingParams, Request
from interlace.serve.http.auth import Keys
from interlace.serve.http.errors import ApiError
from interlace.serve.layers import add_layers
from interlace.serve.metrics import ServerMetrics
from interlace.serve.routes import probes
from interlace.serve.settings import ServeSettings
from interlace.serve.speaking import chat, generate, speech, status
from interlace.serve.speaking.answers import Answers
from interlace.serve.speaking.state import SpeakingState

logger = logging.getLogger("interlace.serve")
_STATIC = Path(__file__).parent / "static"
_ICON = Path(__file__).parent.parent / "static" / "icon.svg"
_PAGE_POLICY = "default-src 'self'; media-src 'self' blob: data:; img-src 'self' blob: data:; frame-ancestors 'none'"


def create_speaking_app(omni: AsyncOmni, settings: ServeSettings | None = None) -> FastAPI:
    """An ASGI application over one stage that writes, and may speak. Its owner closes it."""
    settings, metrics = settings or ServeSettings(), ServerMetrics()
    config = omni.omni.configs[0]
    about = {**omni.omni.describe(), "model": config.model}
    running = int(getattr(config.engine_config(), "max_num_seqs", 16)) * config.replicas
    answers, keys = Answers(omni.omni, settings, metrics, running), Keys.of(settings)
    app = FastAPI(title="Interlace", version=__version__, lifespan=_lifespan, redirect_slashes=False)
    app.state.server = SpeakingState(settings, omni.omni, answers, metrics, keys, about)
    for api in (chat, speech, generate, status, probes):
        app.include_router(api.router)
    _add_page(app)
    add_layers(app, settings, keys, metrics)
    return app


def _add_page(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
        return FileResponse(_STATIC / "index.html", headers=headers)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(_ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: SpeakingState = app.state.server
    task = asyncio.create_task(_warm_up(state))
    try:
        yield
    finally:
        for answer in state.registry.live():
            state.registry.cancel(answer, ApiError(503, "the server has stopped; send it again", code="draining"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _warm_up(state: SpeakingState) -> None:
    """A first few words: what is slow only once is over before clients come."""
    try:
        if state.settings.warmup:
            sampling = ARSamplingParams(max_tokens=2)
            future = state.omni.submit(Request(request_id="warm-up", prompt="warm-up", sampling=sampling))
            output = await asyncio.wrap_future(future)
            if output.error is not None:
                raise output.error
        state.warm = True
    except Exception as error:
        state.broken = f"the first answer could not be made: {type(error).__name__}: {error}"
        logger.exception("the first answer could not be made")
