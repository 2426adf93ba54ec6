"""Decides which requests are admitted and which pending calls form the next forward. Knows nothing of torch.

Every policy is a sort key: the group of the first call in that order runs, with all that may share its forward.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from interlace.config import EngineConfig

ENCODE, DECODE, DENOISE = 0, 1, 2  # in the order in which they run: what lets requests join, what lets them leave


@dataclass(frozen=True, slots=True)
class Pending:
    """A paused call, as the scheduler sees it. `order` is the age of its request: smaller is older."""

    request_id: str
    module: str
    signature: Hashable  # equal: may share a forward; None: runs alone
    stage: int  # ENCODE, DECODE or DENOISE
    rows: int
    tokens: int
    order: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued request: `key` says with which others it may form a wave; `since` is in seconds."""

    request_id: str
    key: Hashable
    since: float
    order: int
    priority: int = 0


class Scheduler:
    """Picks by priority, then stage, then age. A request that can't join a forward never holds up those that can."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._recent: dict[str, deque[_Point]] = {}  # the last calls of a request's denoising loop

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._recent.pop(request_id, None)

    def admit(self, waiting: Iterable[Waiting], num_running: int, now: float) -> tuple[list[str], float]:
        """The requests to start now, and in how many seconds to ask again where they wait for company."""
        queue = sorted(waiting, key=lambda w: (-w.priority, w.order))
        if not queue:
            return [], 0.0
        if self._config.step_execution:
            return [w.request_id for w in queue[: self._config.max_num_seqs - num_running]], 0.0
        return self._wave(queue, num_running, now)

    def _wave(self, queue: Sequence[Waiting], num_running: int, now: float) -> tuple[list[str], float]:
        """Request mode: equal requests from the head of the queue, up to the first that differs, when none runs."""
        if num_running:
            return [], 0.0
        wave: list[Waiting] = []
        for request in queue[: self._config.max_num_seqs]:
            if request.key != queue[0].key:
                break
            wave.append(request)
        wait = min(w.since for w in wave) + self._config.request_batch_max_wait_ms / 1000 - now
        full = len(wave) == self._config.max_num_seqs or len(wave) < len(queue)
        if wait > 0 and not full:
            return [], wait
        return [w.request_id for w in wave], 0.0

    def next_forward(self, pending: Iterable[Pending], row_limits: Mapping[Hashable, int]) -> list[Pending]:
        """The calls of the next forward, oldest first; empty when nothing is pending.

        `row_limits` holds what was learned of a signature: the most rows that one forward of it can take.
        """
        calls = sorted(pending, key=lambda p: (-p.priority, p.stage, p.order))
        if not calls:
            return []
        group = self._group(self._laggard(calls) or calls[0], calls, row_limits)
        for call in group:
            if call.stage == DENOISE:
                self._recent.setdefault(call.request_id, deque(maxlen=_CYCLE)).append(_point(call))
        return group

    def _laggard(self, calls: Sequence[Pending]) -> Pending | None:
        """The oldest call, if any, that the head's request has just been through on its way to its own.

        In a loop over several modules (ControlNet, then UNet) such a request is one call away from sharing the head's.
        """
        head, passed = calls[0], set[_Point]()
        for point in reversed(self._recent.get(head.request_id, ())):
            if point == _point(head):
                break
            passed.add(point)
        behind = (call for call in calls[1:] if call.stage == DENOISE and call.priority == head.priority)
        return next((call for call in behind if _point(call) in passed), None) if head.stage == DENOISE else None

    def _group(self, head: Pending, calls: Sequence[Pending], row_limits: Mapping[Hashable, int]) -> list[Pending]:
        """`head` and all that may share its forward, oldest first, within the limits."""
        if head.signature is None:
            return [head]
        max_rows = min(row_limits.get(head.signature, _NO_LIMIT), self._config.max_batch_rows or _NO_LIMIT)
        max_tokens = self._config.max_batch_tokens or _NO_LIMIT
        group, rows, tokens = [head], head.rows, head.tokens
        for call in calls:
            fits = rows + call.rows <= max_rows and tokens + call.tokens <= max_tokens
            if call is not head and call.signature == head.signature and fits:
                group.append(call)
                rows, tokens = rows + call.rows, tokens + call.tokens
        return group


_NO_LIMIT = 2**62
_CYCLE = 4  # calls of a denoising loop that are remembered
_Point = tuple[str, float]  # a module, and the tokens in each row


def _point(call: Pending) -> _Point:
    return call.module, call.tokens / call.rows
