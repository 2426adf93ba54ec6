"""What every HTTP request passes: an id, the key, the size of its body and the time it takes, one line in the log."""

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Callable
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interlace.serve.http.auth import Keys
from interlace.serve.http.errors import ApiError
from interlace.serve.http.forwarded import path_of
from interlace.serve.metrics import ServerMetrics
from interlace.serve.settings import ServeSettings

logger = logging.getLogger("interlace.serve")
access = logging.getLogger("interlace.access")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTROLS = dict.fromkeys([*range(32), 127], " ")
_SILENT = ("/health", "/liveness")  # whoever asks reads the answer
_QUIET = ("/metrics", "/v1/stats", "/static/")  # asked for all the time


class Gate:
    """The ASGI layer around all routes. Answers by itself what may not pass, and whatever was raised unawares."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, keys: Keys, metrics: ServerMetrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.held = 0  # bytes of the bodies of all requests under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Visit(self, scope, receive, send)
        try:
            visit.admit()
            await self.app(scope, visit.receive, visit.send)
        except ApiError as error:
            await visit.answer(error)
        except (ClientGoneError, ClientDisconnect) as error:
            visit.note["error"] = f"the client went away ({type(error.__cause__ or error).__name__})"
        except Exception as error:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            text = f"unexpected {type(error).__name__}; the server's log says more"
            await visit.answer(ApiError(500, text, code="internal_error", headers={"x-should-retry": "false"}))
        finally:
            self.held -= visit.taken
            for give_back in visit.holds:
                give_back()
            visit.log()


class ClientGoneError(OSError):
    """What was to be sent could not be: nobody reads any more."""


class _Visit:
    """One HTTP request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self.scope, self._receive, self._send = gate, scope, receive, send
        self.start = perf_counter()
        self.status = 0
        self.taken = 0  # bytes of the body so far
        self.ended = False  # the body is in
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if _ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        self.note: dict[str, Any] = {}
        self.warnings: list[str] = []  # what the request said in vain
        self.holds: list[Callable[[], None]] = []  # what gives back the models that it uses
        scope.setdefault("state", {}).update(
            request_id=self.id,
            note=self.note,
            warnings=self.warnings,
            holds=self.holds,
            strict_fields=gate.settings.strict_fields,
        )

    def admit(self) -> None:
        self.scope["state"]["client"] = self.gate.keys.client(self.scope)
        length = Headers(scope=self.scope).get("content-length", "0")
        if length.isdigit() and int(length) > self.gate.settings.max_body_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        if self.ended:
            return await self._receive()
        left = self.gate.settings.body_timeout_s - (perf_counter() - self.start)
        try:
            async with asyncio.timeout(max(left, 0.01)):
                message = await self._receive()
        except TimeoutError:
            text = f"the body took longer than {self.gate.settings.body_timeout_s:g} s; send it faster"
            raise ApiError(408, text, code="body_timeout", headers={"Connection": "close"}) from None
        size = len(message.get("body", b""))
        self.taken += size
        self.gate.held += size
        self.ended = not message.get("more_body", False)
        if self.taken > self.gate.settings.max_body_bytes:
            raise self._too_large()
        if self.gate.held > self.gate.settings.max_bodies_mb * 2**20:
            text = "too many large bodies at once; send it again in a moment"
            raise ApiError(503, text, code="bodies_full", headers={"Retry-After": "2", "Connection": "close"})
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            if self.warnings:
                headers["X-Interlace-Warnings"] = _header("; ".join(self.warnings))
            headers.setdefault("X-Content-Type-Options", "nosniff")
        try:
            async with asyncio.timeout(self.gate.settings.send_timeout_s):
                await self._send(message)
        except OSError as error:
            raise ClientGoneError(str(error)) from error

    async def answer(self, error: ApiError) -> None:
        if self.status == 0:
            await error.response()(self.scope, self._receive, self.send)

    def _too_large(self) -> ApiError:
        text = f"the body is larger than {self.gate.settings.max_body_mb:g} MiB; send smaller or fewer pictures"
        return ApiError(413, text, code="body_too_large", headers={"Connection": "close"})

    def log(self) -> None:
        route = self.scope.get("route")
        state, local = self.scope["state"], path_of(self.scope)
        status = 499 if state.get("left") else self.status or 499
        method = "HEAD" if state.get("is_head") else _method(self.scope["method"])
        path = getattr(route, "path", None) or ("/static" if local.startswith("/static/") else "other")
        self.gate.metrics.http.labels(method, path, str(status)).inc()
        if local.startswith(_SILENT) or (local.startswith(_QUIET) and self.status < 400):
            return
        line = {
            "id": self.id,
            "client": state.get("client"),
            "method": method,
            "path": self.scope["path"][:200],
            "status": status,
            "seconds": round(perf_counter() - self.start, 4),
            **self.note,
            **({"warnings": self.warnings} if self.warnings else {}),
        }
        access.info("%s", json.dumps(line, ensure_ascii=False), extra={"fields": line})


def _header(text: str) -> str:
    """Printable ASCII, and not too long for proxies."""
    return text.encode("ascii", "replace").decode().translate(_CONTROLS)[:2000]


def _method(method: str) -> str:
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
