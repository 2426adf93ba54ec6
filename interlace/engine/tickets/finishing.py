"""Requests whose pipeline has returned before the device has come that far: whether all is finite isn't known."""

from collections.abc import Iterator

from interlace.engine.calls.finite import not_finite
from interlace.engine.ticket import Ticket
from interlace.errors import NonFiniteOutputError


class Finishing:
    """In the engine's thread."""

    def __init__(self) -> None:
        self._left: list[tuple[Ticket, object]] = []

    def __len__(self) -> int:
        return len(self._left)

    def add(self, ticket: Ticket, value: object) -> None:
        """It came to `value`, if its doubts come to nothing."""
        self._left.append((ticket, value))

    def ended(self, *, wait: bool) -> Iterator[tuple[Ticket, object, NonFiniteOutputError | None]]:
        """Those that are known now. `wait`: nothing else is to be done, so the first is waited for."""
        left, self._left = self._left, []
        for number, (ticket, value) in enumerate(left):
            if (wait and number == 0) or all(doubt.known() for doubt in ticket.doubts):
                right = all(doubt.holds() for doubt in ticket.doubts)
                yield ticket, value, None if right else not_finite(ticket.request_id)
            else:
                self._left.append((ticket, value))
