"""A real server on a real socket, in a thread of the tests' process, over the built-in model."""

import asyncio
import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
from PIL import Image

from interlace import AsyncOmni
from interlace.serve.app import create_app
from interlace.serve.http.run import DrainingServer, make_server
from interlace.serve.settings import ServeSettings
from interlace.serve.speaking.app import create_speaking_app

WAIT_S = 120.0  # for what comes at once, unless the machine is busy
SMALL = {"size": "64x64", "num_inference_steps": 2}
ENDLESS = {"prompt": "a long one", "size": "128x128", "num_inference_steps": 100_000}  # no test waits for its end


class Live:
    """A running server: its address, and what is inside."""

    def __init__(self, server: DrainingServer) -> None:
        self.server = server
        self.state = server.config.app.state.server
        self.url = server.url

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WAIT_S, **options)

    def paused(self) -> AbstractContextManager[None]:
        """Within, no forward runs of the model that draws: what is under way stays so, however slow the tests are."""
        paused: AbstractContextManager[None] = self.state.models.current.draw.omni.engine.paused()
        return paused

    def events_followed(self, job_id: str) -> bool:
        """Whether somebody listens to what happens to a request."""
        return any(job.watchers for job in list(self.state.registry.jobs) if job.id == job_id)


@contextmanager
def running(
    omni: AsyncOmni, edit_omni: AsyncOmni | None = None, *, speaking: bool = False, **options: Any
) -> Iterator[Live]:
    settings = ServeSettings(**{"port": 0, "warmup": False, "drain_s": 5.0, **options})
    app = create_speaking_app(omni, settings) if speaking else create_app(omni, settings, edit_omni)
    server = make_server(app, settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.url:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.02)
    try:
        yield Live(server)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


def png(width: int = 64, height: int = 64, colour: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def mask_png(width: int = 64, height: int = 64) -> bytes:
    """Transparent, that is to be edited, on the left half."""
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def picture(b64: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    image.load()
    return image


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def until(check: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """What `check` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")
