"""The requests of one engine that have no result yet, by id. Safe to read from any thread."""

from collections.abc import Sequence

from interlace.engine.statistics import LiveRequest
from interlace.engine.ticket import Ticket
from interlace.errors import InvalidRequestError


class Book:
    """An id is in use until its request has really ended."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._tickets

    @property
    def tickets(self) -> list[Ticket]:
        """All of them, in the order in which they came."""
        return list(self._tickets.values())

    def enter(self, tickets: Sequence[Ticket]) -> None:
        """All of them or none. Raises `InvalidRequestError` for an id that is in use."""
        for ticket in tickets:
            if ticket.request_id in self._tickets:
                message = f"request_id {ticket.request_id!r} is already in use; choose another"
                raise InvalidRequestError(message, "request_id")
        self._tickets.update((ticket.request_id, ticket) for ticket in tickets)

    def forget(self, ticket: Ticket) -> None:
        """A request has really ended: its id is free."""
        if self._tickets.get(ticket.request_id) is ticket:
            del self._tickets[ticket.request_id]

    def clear(self) -> None:
        """They have all ended."""
        self._tickets.clear()

    def live(self) -> list[LiveRequest]:
        """What is known of each, from outside: it may be a forward late."""
        return [
            {
                "request_id": ticket.request_id,
                "state": "waiting" if ticket.strand is None and not ticket.joined else "running",
                "step": ticket.metrics.num_steps,
                "num_steps": ticket.num_steps,
                "rows": ticket.num_rows,
            }
            for ticket in self.tickets
        ]
