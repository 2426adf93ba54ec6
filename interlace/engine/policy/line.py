"""Requests that wait to be started, in the order of the policy, however many they are. No torch.

Predictions change while requests wait. A request's is looked at when it comes, when it is first in line, and in turn
with the others': a few at each forward, never all of them.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from interlace.config import Policy
from interlace.engine.policy.ranks import RANKS

_LOOKS = 16  # predictions that are made anew at one forward, and beyond those taken
_SPARE = 64  # entries of a heap that may be out of date, beyond as many as wait


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued request: `key` says with which others it may form a wave; `since` is in seconds."""

    request_id: str
    key: Hashable
    since: float
    order: int
    priority: int = 0
    remaining: float = 0.0
    deadline: float | None = None


_Key = tuple[float, ...]


class Line:
    """`predict` gives a request's work in seconds, for policies that go by it; None: those given stay as they are."""

    def __init__(self, policy: Policy = "fifo", predict: Callable[[str], float] | None = None) -> None:
        self._rank, self._predict = RANKS[policy], predict
        self._waiting: dict[str, Waiting] = {}
        self._first: list[tuple[_Key, int, Waiting]] = []  # a heap; what is not in `_waiting` any more is skipped
        self._count = itertools.count()
        self._late: list[tuple[float, int, str]] = []  # a heap of deadlines, likewise
        self._turns: deque[str] = deque()  # whose prediction is looked at next

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def add(self, requests: Iterable[Waiting], now: float = 0.0) -> None:
        """They stand in line from now on."""
        for one in requests:
            self._put(one, now)
            if one.deadline is not None:
                heapq.heappush(self._late, (one.deadline, one.order, one.request_id))
            if self._predict is not None:
                self._turns.append(one.request_id)

    def remove(self, request_id: str) -> None:
        """Out of the line; harmless for who isn't in it."""
        if self._waiting.pop(request_id, None) is not None:
            self._tidy()

    def take(self, count: int, now: float) -> list[Waiting]:
        """The first `count`, out of the line; `put_back` those that don't start."""
        taken: list[Waiting] = []
        looked_at: set[str] = set()
        while len(taken) < count and self._first:
            one = heapq.heappop(self._first)[2]
            if self._waiting.get(one.request_id) is not one:
                continue
            if one.request_id not in looked_at and len(looked_at) < count + _LOOKS:  # then it may be others' turn
                looked_at.add(one.request_id)
                self._put(self._predicted(one), now)
                continue
            del self._waiting[one.request_id]
            taken.append(one)
        return taken

    def put_back(self, requests: Iterable[Waiting], now: float) -> None:
        """What `take` took stands where it stood."""
        for one in requests:
            self._put(one, now)

    def look(self, now: float) -> None:
        """A few predictions are made anew."""
        for _ in range(min(_LOOKS, len(self._turns))):
            request_id = self._turns.popleft()
            if (one := self._waiting.get(request_id)) is not None:
                self._turns.append(request_id)
                if (current := self._predicted(one)) is not one:
                    self._put(current, now)
        self._tidy()

    def late(self, now: float) -> list[Waiting]:
        """Those whose deadline has passed."""
        found = []
        while self._late and self._late[0][0] < now:
            request_id = heapq.heappop(self._late)[2]
            if request_id in self._waiting:
                found.append(self._waiting[request_id])
        return found

    def hopeless(self, now: float) -> list[Waiting]:
        """Of those that were looked at last, the ones that can't meet their deadline, by prediction."""
        last = (self._waiting.get(self._turns[-place - 1]) for place in range(min(_LOOKS, len(self._turns))))
        return [
            one for one in last if one is not None and one.deadline is not None and now + one.remaining > one.deadline
        ]

    def _predicted(self, one: Waiting) -> Waiting:
        if self._predict is None or (remaining := self._predict(one.request_id)) == one.remaining:
            return one
        return replace(one, remaining=remaining)

    def _key(self, one: Waiting, now: float) -> _Key:
        return (-one.priority, *self._rank(one, now), one.order)

    def _put(self, one: Waiting, now: float) -> None:
        self._waiting[one.request_id] = one
        heapq.heappush(self._first, (self._key(one, now), next(self._count), one))

    def _tidy(self) -> None:
        """What is out of date goes, before it is more than what waits."""
        most = 2 * len(self._waiting) + _SPARE
        if len(self._first) > most:
            self._first = [entry for entry in self._first if self._waiting.get(entry[2].request_id) is entry[2]]
            heapq.heapify(self._first)
        if len(self._late) > most:
            self._late = [entry for entry in self._late if entry[2] in self._waiting]
            heapq.heapify(self._late)
        if len(self._turns) > most:
            self._turns = deque(one for one in self._turns if one in self._waiting)
