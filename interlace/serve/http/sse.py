"""Server-sent events: frames, signs of life, and an end as soon as the client is gone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Frame = tuple[str, dict[str, Any] | str]  # (event name or "", data)
_SIGN_OF_LIFE = b": keep-alive\n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """Sends frames as they come, and a comment whenever nothing was sent for `keep_alive_s` seconds.

    However the stream ends, the generator is closed, and then `end()` is called. A client may be gone before the first
    frame: then the generator never began, and has nothing to clean up with.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[Frame, None], keep_alive_s: float, end: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(None, 200, _HEADERS)
        del self.headers["content-length"]
        self._frames, self._keep_alive_s, self._end = frames, keep_alive_s, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        gone = asyncio.create_task(until_gone(receive))
        sending = asyncio.create_task(self._send_all(send))
        try:
            await asyncio.wait([gone, sending], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                scope["state"]["left"] = True
        finally:
            for task in (gone, sending):
                task.cancel()
            try:
                results = await asyncio.gather(gone, sending, return_exceptions=True)
                await self._frames.aclose()
            finally:
                self._end()
        if isinstance(results[1], Exception):
            raise results[1]

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while (frame := await self._next(send)) is not None:
            await send({"type": "http.response.body", "body": encode(frame), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, send: Send) -> Frame | None:
        """The next frame, None after the last; signs of life until it is there."""
        waiting = asyncio.create_task(_frame_of(self._frames))
        try:
            while not (await asyncio.wait([waiting], timeout=self._keep_alive_s))[0]:
                await send({"type": "http.response.body", "body": _SIGN_OF_LIFE, "more_body": True})
            return waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


async def _frame_of(frames: AsyncGenerator[Frame, None]) -> Frame | None:
    return await anext(frames, None)


def encode(frame: Frame) -> bytes:
    """One frame on the wire."""
    name, data = frame
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {text}\n\n".encode()


async def until_gone(receive: Receive) -> None:
    """Returns when the client has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, event: asyncio.Event) -> bool:
    """Waits for `event`; False when the client left first."""
    waits = [asyncio.create_task(event.wait()), asyncio.create_task(until_gone(request.receive))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*waits, return_exceptions=True)
    return event.is_set()
