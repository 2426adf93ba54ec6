"""Runs the application: uvicorn on a socket, impatient with slow heads, patient with work under way at SIGTERM."""

import asyncio
import logging
import socket
import sys
from time import monotonic

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from interlace.serve.http.binding import bind
from interlace.serve.http.errors import ApiError
from interlace.serve.jobs.registry import Registry
from interlace.serve.settings import ServeSettings
from interlace.serve.state import ServerState

logger = logging.getLogger("interlace.serve")


def serve(app: FastAPI, settings: ServeSettings, sock: socket.socket | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Prints `listening on http://host:port` on stdout once it does.

    Raises `InvalidRequestError` where the address is in use.
    """
    with sock or bind(settings) as listening:
        make_server(app, settings).run(sockets=[listening])


def make_server(app: FastAPI, settings: ServeSettings) -> "DrainingServer":
    """The same, not yet started: for tests, and for other loops."""
    protocol = type("Protocol", (ImpatientProtocol,), {"header_timeout_s": settings.header_timeout_s})
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=settings.idle_timeout_s,  # type: ignore[arg-type] # seconds for a timer: a float will do
        proxy_headers=False,  # `Forwarded` knows the host and the prefix as well
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    return DrainingServer(config)


class DrainingServer(uvicorn.Server):
    """At the first signal no request is accepted any more, those under way are finished, then it stops."""

    url = ""
    _draining: "asyncio.Task[None] | None" = None

    @property
    def _state(self) -> ServerState:
        state: ServerState = self.config.app.state.server  # type: ignore[union-attr]
        return state

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and says where."""
        await super().startup(sockets)
        if self.should_exit or not self.servers:
            return
        self._loop = asyncio.get_running_loop()
        port = self.servers[0].sockets[0].getsockname()[1]
        host = self.config.host
        scheme = "https" if self.config.is_ssl else "http"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        sys.stdout.write(f"listening on {self.url}\n")
        sys.stdout.flush()

    def handle_exit(self, sig: int, frame: object) -> None:
        """SIGTERM and SIGINT: drain. Once more: stop now."""
        if self._draining is not None or not hasattr(self, "_loop"):
            self.force_exit = self._draining is not None
            self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self.start_drain)

    def start_drain(self) -> None:
        """Begin to stop; on the loop's thread."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        state = self._state
        state.registry.admission.draining = True
        seconds = state.settings.drain_s
        logger.info("draining: %d requests under way, up to %g s", len(state.registry.live()), seconds)
        deadline = monotonic() + seconds
        while _unfinished(state.registry) and monotonic() < deadline and not self.should_exit:
            await asyncio.sleep(0.05)
        for job in state.registry.live():
            text = f"the server shuts down and could not finish this within {seconds:g} s; send it again"
            state.registry.cancel(job, ApiError(503, text, code="draining", headers={"Retry-After": "5"}))
        await asyncio.sleep(0.1)  # for answers to get out
        self.should_exit = True


def _unfinished(registry: Registry) -> bool:
    """Whether anyone still waits for a result, or has not yet collected one."""
    waiting = any(job.background and job.error is None and not job.collected for job in registry.jobs)
    return waiting or bool(registry.live())


class ImpatientProtocol(H11Protocol):
    """Closes a connection whose request's head is not there in time."""

    header_timeout_s = 20.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the class above, which is more exact
        """A client is there."""
        super().connection_made(transport)
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Some bytes more."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()  # the next request's on a connection that was idle
        super().data_received(data)
        if self.cycle is not None and self._head_timer is not None and not self.cycle.response_complete:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy and not self.transport.is_closing():
            self.transport.close()
