"""Requests that have ended: counted at once, and told to their owners last in a step."""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from typing import Any

from interlace.engine.ticket import Ticket
from interlace.errors import AbortedError

logger = logging.getLogger("interlace.engine")


class Endings:
    """`on_end(ticket)` is called before a request's future is done."""

    def __init__(self) -> None:
        self.on_end: Callable[[Ticket], None] = lambda ticket: None
        self.num_ok = self.num_failed = self.num_aborted = 0
        self._untold: list[tuple[Ticket, Any, BaseException | None]] = []

    def add(self, ticket: Ticket, value: object, error: BaseException | None) -> None:
        """A request came to `value`, or to `error`."""
        if error is None:
            self.num_ok += 1
        elif isinstance(error, AbortedError):
            self.num_aborted += 1
        else:
            self.num_failed += 1
        self._untold.append((ticket, value, error))

    def tell(self) -> None:
        """Hand out what has ended, so late that whoever waits finds the counts complete."""
        untold, self._untold = self._untold, []
        for ticket, value, error in untold:
            try:
                ticket.tell("ended")
            except Exception:  # the listener's own
                logger.exception("a listener of %s failed", ticket.request_id)
            self.on_end(ticket)
            with contextlib.suppress(InvalidStateError):  # its owner has cancelled it
                if error is None:
                    ticket.future.set_result(value)
                else:
                    ticket.future.set_exception(error)
