"""Engines and their process: closed before it ends, dead in a child that was forked, never waited for by themselves."""

import atexit
import os
import threading
import weakref
from concurrent.futures import Future
from typing import Any, Protocol

from interlace.engine.ticket import Ticket
from interlace.errors import InterlaceError

_engines: "weakref.WeakSet[Closing]" = weakref.WeakSet()
_registered = False
_EXIT_S = 30.0  # the longest wait for a forward when the process ends


class Closing(Protocol):
    """What is said here of an engine."""

    def abort(self, request_id: str) -> bool: ...

    def close(self, timeout_s: float | None = None) -> None: ...

    def die_in_child(self) -> None: ...


class RequestFuture(Future[Any]):
    """A request's future. Cancelling it aborts the request, at whatever point it is; `ticket` tells how it went."""

    def __init__(self) -> None:
        super().__init__()
        self.ticket: Ticket | None = None
        self.engine: weakref.ref[Closing] | None = None
        self._told = False

    def cancel(self) -> bool:
        """True unless it is done. Whoever waits gets `CancelledError` at once; the request ends at the next forward."""
        cancelled = super().cancel()
        if cancelled and not self._told:
            self._told = True
            self.set_running_or_notify_cancel()  # whoever waits for several futures hears of it
        engine = self.engine() if self.engine is not None else None
        if cancelled and engine is not None and self.ticket is not None:
            engine.abort(self.ticket.request_id)
        return cancelled


def register(engine: Closing) -> None:
    """`engine` has started its thread."""
    global _registered
    _engines.add(engine)
    if not _registered:
        _registered = True
        atexit.register(_close_all)
        os.register_at_fork(after_in_child=_forget_all)


def refuse_in_engine_thread(engine_thread: threading.Thread, what: str) -> None:
    """Raises `InterlaceError` where a call would wait for the very thread that it is made in."""
    if threading.current_thread() is engine_thread:
        raise InterlaceError(
            f"{what} was called in the engine's own thread (a callback, on_step or a done-callback) and would wait for "
            "itself; use submit() there, or call it from another thread"
        )


def _close_all() -> None:
    """Before the interpreter ends: a thread in the middle of a forward would take the process down with it."""
    for engine in list(_engines):
        engine.close(timeout_s=_EXIT_S)


def _forget_all() -> None:
    """In a forked child there is no engine's thread."""
    for engine in list(_engines):
        engine.die_in_child()
    _engines.clear()
