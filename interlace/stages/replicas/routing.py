"""Where a request goes: to the replica that is predicted to be done with it first. Pure; no torch.

Among replicas that are nearly as soon, the one where its shape or variant already runs, so that forwards stay shared.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from interlace.stages.replicas.work import ReplicaWork

_NEAR = 1.15  # times the least predicted finish that is as good
_KEPT_S = 120.0  # busy seconds after which older ones count half


@dataclass(frozen=True)
class Load:
    """A replica as routing sees it: work that is left there, its speed (amount a second, None: not known), shapes."""

    place: int
    left: float
    speed: float | None
    keys: Collection[tuple[Any, ...]] = ()
    num_requests: int = 0


def choose(loads: Sequence[Load], work: ReplicaWork) -> int:
    """The place for a request. `loads` must not be empty."""
    known = [load.speed for load in loads if load.speed]
    usual = sum(known) / len(known) if known else 1.0

    def finish(load: Load) -> float:
        return (load.left + work.amount) / (load.speed or usual)

    soonest = min(map(finish, loads))
    near = [load for load in loads if finish(load) <= soonest * _NEAR]
    return min(near, key=lambda load: (work.key not in load.keys, finish(load), load.num_requests, load.place)).place


class Speed:
    """ReplicaWork that a replica gets through in a second while it has any, measured."""

    def __init__(self) -> None:
        self._amount = self._seconds = 0.0
        self._since: float | None = None

    def busy(self, now: float) -> None:
        """It has something to do."""
        self._since = now if self._since is None else self._since

    def idle(self, now: float) -> None:
        """It has nothing more to do."""
        self._count(now)
        self._since = None

    def done(self, amount: float, now: float) -> None:
        """So much of its work is done."""
        self._count(now)
        self._amount += amount
        if self._seconds > _KEPT_S:
            self._amount, self._seconds = self._amount / 2, self._seconds / 2

    @property
    def value(self) -> float | None:
        """Amount a second; None until something was done."""
        return self._amount / self._seconds if self._amount and self._seconds else None

    def _count(self, now: float) -> None:
        if self._since is not None:
            self._seconds, self._since = self._seconds + now - self._since, now
