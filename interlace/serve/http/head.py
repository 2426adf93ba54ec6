"""HEAD wherever GET is: the same answer without its body. Knows nothing of routes."""

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """An ASGI layer that runs GET for HEAD and sends the head of its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})["is_head"] = True
        started = asyncio.Event()

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                started.set()

        async def run() -> None:
            await self.app({**scope, "method": "GET"}, receive, send_head)

        await _until(asyncio.create_task(run()), started)


async def _until(running: "asyncio.Task[None]", started: asyncio.Event) -> None:
    """The rest of an answer whose head is out isn't made: a stream of events would never end."""
    waiting = asyncio.create_task(started.wait())
    try:
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        if started.is_set():
            running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
