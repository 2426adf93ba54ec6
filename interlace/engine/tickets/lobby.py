"""Requests that wait to be started: in line, aborted or too late meanwhile. A few are looked at at once."""

from collections.abc import Iterable
from time import monotonic

from interlace.config import EngineConfig
from interlace.engine.policy.line import Line
from interlace.engine.policy.scheduler import Scheduler
from interlace.engine.ticket import Ticket
from interlace.engine.tickets.prospects import Prospects

_GATHER_S = 0.1  # the longest that requests wait for those that are to start with them


class Lobby:
    """Owned by the loop; everything is called in the engine's thread."""

    def __init__(self, config: EngineConfig, prospects: Prospects, scheduler: Scheduler) -> None:
        self._prospects, self._scheduler, self._shed = prospects, scheduler, config.shed_hopeless
        self._tickets: dict[str, Ticket] = {}
        self._aborted: list[Ticket] = []
        self._gathering = 0  # how many say that more is to come
        self._gathered_by = 0.0  # when they are no longer believed
        self._line = Line(config.policy, self._left if prospects.predicting else None)

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._tickets

    @property
    def tickets(self) -> list[Ticket]:
        """All of them, in the order in which they came."""
        return list(self._tickets.values())

    def add(self, tickets: Iterable[Ticket]) -> None:
        """They wait from now on."""
        new = {ticket.request_id: ticket for ticket in tickets}
        self._tickets |= new
        self._line.add(map(self._prospects.waiting, new.values()), monotonic())

    def abort(self, request_id: str, error: BaseException) -> None:
        """It is among the next that `dropped` gives."""
        ticket = self._tickets[request_id]
        ticket.aborted = error
        self._aborted.append(ticket)

    def gather(self, more: int) -> None:
        """More is to come that is to start with what waits (+1), or has come (-1)."""
        if not self._gathering:
            self._gathered_by = monotonic() + _GATHER_S
        self._gathering += more

    def admit(self, num_running: int, most: int | None) -> tuple[list[Ticket], float]:
        """Those that start now, and in how many seconds to ask again; as `Scheduler.admit`."""
        room = self._scheduler.places(num_running) > len(self)
        if self._gathering and room and (left := self._gathered_by - monotonic()) > 0:
            return [], left
        admitted, wait = self._scheduler.admit(self._line, num_running, monotonic(), most)
        return [self._tickets.pop(request_id) for request_id in admitted], wait

    def dropped(self) -> list[tuple[Ticket, BaseException]]:
        """Those that are not to be started any more, and why. They are gone from here."""
        now = monotonic()
        self._line.look(now)
        overdue = (*self._line.late(now), *(self._line.hopeless(now) if self._shed else ()))
        found: list[tuple[Ticket, BaseException]] = []
        for ticket in (*self._aborted, *(self._tickets[one.request_id] for one in overdue)):
            error = ticket.aborted or self._prospects.lateness(ticket, now)
            if error is not None and self.remove(ticket):
                found.append((ticket, error))
        self._aborted.clear()
        return found

    def remove(self, ticket: Ticket) -> bool:
        """False when it doesn't wait here."""
        if self._tickets.get(ticket.request_id) is not ticket:
            return False
        del self._tickets[ticket.request_id]
        self._line.remove(ticket.request_id)
        return True

    def _left(self, request_id: str) -> float:
        return self._prospects.left(self._tickets[request_id])
