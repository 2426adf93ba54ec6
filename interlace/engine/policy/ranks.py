"""The policies: which of two requests of one priority goes first. Pure; knows nothing of queues or forwards."""

from collections.abc import Callable
from typing import Protocol

from interlace.config import Policy


class Ranked(Protocol):
    """What a policy looks at: predicted seconds until done, when it was submitted, and when it has to be done."""

    @property
    def remaining(self) -> float: ...

    @property
    def since(self) -> float: ...

    @property
    def deadline(self) -> float | None: ...


Rank = Callable[[Ranked, float], tuple[float, ...]]  # (item, now): a sort key

_AGING = 0.5  # seconds of predicted work that a second of waiting is worth


def _oldest(item: Ranked, now: float) -> tuple[float, ...]:
    return ()


def _shortest(item: Ranked, now: float) -> tuple[float, ...]:
    """Predicted work left, less a share of the time since submission: whoever waits long enough is shortest."""
    return (item.remaining + _AGING * item.since,)


def _earliest_deadline(item: Ranked, now: float) -> tuple[float, ...]:
    """Deadlines in order; then those without; last those that can't be met any more."""
    if item.deadline is None:
        return (1, 0.0)
    return (2 if now + item.remaining > item.deadline else 0, item.deadline)


RANKS: dict[Policy, Rank] = {"fifo": _oldest, "sjf": _shortest, "deadline": _earliest_deadline}
