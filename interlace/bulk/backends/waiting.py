"""Images that are yet to be asked for, in the order of their turn. Knows no endpoint's state; no locks."""

import heapq
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from interlace.bulk.backends.limits import EndpointGate
from interlace.bulk.input.rows import Job
from interlace.request import Output

_LOOK_AHEAD = 16  # tasks looked at for one that an open endpoint may have


@dataclass(order=True)
class Task:
    """One image on its way."""

    rank: tuple[int, int]  # priority, then order of submission
    job: Job = field(compare=False)
    arguments: Mapping[str, Any] = field(compare=False)
    future: "Future[Output]" = field(compare=False)
    submitted_at: float = field(compare=False)
    started_at: float | None = field(default=None, compare=False)
    num_failures: int = field(default=0, compare=False)  # those that count against max_retries
    num_sent: int = field(default=0, compare=False)
    failed_at: EndpointGate | None = field(default=None, compare=False)  # the endpoint of the last failure
    images_then: int = field(default=0, compare=False)  # what that endpoint had made by then

    @property
    def deadline(self) -> float:
        timeout_s = self.job.sampling.timeout_s
        return math.inf if timeout_s is None else self.submitted_at + timeout_s


class WaitingTasks:
    """Tasks that are ready, and tasks that rest after a failure."""

    def __init__(self) -> None:
        self._ready: list[Task] = []  # a heap
        self._resting: list[tuple[float, Task]] = []  # a heap: when each may be tried again

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    def add(self, task: Task) -> None:
        heapq.heappush(self._ready, task)

    def rest(self, task: Task, until: float) -> None:
        heapq.heappush(self._resting, (until, task))

    def wake(self, now: float) -> None:
        while self._resting and self._resting[0][0] <= now:
            self.add(heapq.heappop(self._resting)[1])

    def remove(self, task: Task) -> None:
        """It may be elsewhere by now."""
        if task in self._ready:
            self._ready.remove(task)
            heapq.heapify(self._ready)
        self._resting = [entry for entry in self._resting if entry[1] is not task]
        heapq.heapify(self._resting)

    def take_all(self) -> list[Task]:
        left = [*self._ready, *(task for _, task in self._resting)]
        self._ready, self._resting = [], []
        return left

    def take_late(self, now: float) -> list[Task]:
        """Of those whose turn is near, the ones whose time is over."""
        late = [task for task in self._ready[:_LOOK_AHEAD] if now >= task.deadline]
        for task in late:
            self._ready.remove(task)
        heapq.heapify(self._ready)
        return late

    def take(self, pick: Callable[[Task], EndpointGate | None]) -> tuple[Task, EndpointGate] | None:
        """The first task that `pick` has an endpoint for, with that endpoint."""
        passed: list[Task] = []
        found = None
        while self._ready and len(passed) < _LOOK_AHEAD and found is None:
            task = heapq.heappop(self._ready)
            gate = pick(task)
            if gate is None:
                passed.append(task)
            else:
                found = (task, gate)
        for task in passed:
            heapq.heappush(self._ready, task)
        return found

    def next_wake_at(self) -> float:
        return self._resting[0][0] if self._resting else math.inf

    def next_deadline(self) -> float:
        return min((task.deadline for task in self._ready[:_LOOK_AHEAD]), default=math.inf)
