"""Decides which requests are admitted and which pending calls form the next forward. Knows nothing of torch.

Every policy is a sort key: the group of the first call in that order runs, with all that may share its forward.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from interlace.config import EngineConfig, Policy
from interlace.engine.cost import CostModel
from interlace.engine.memory import MemoryModel

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
    shape: str = ""  # what a forward of it costs is known by this
    remaining: float = 0.0  # predicted seconds until its request is done, alone
    since: float = 0.0  # when its request was submitted, seconds
    deadline: float | None = None  # on the clock of `since`
    places: Hashable = None  # where its tokens are: calls with others share only packed


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


class Scheduler:
    """Picks by priority, then stage, then policy. A request that can't join a forward never holds up those that can."""

    def __init__(self, config: EngineConfig, cost: CostModel | None = None, memory: MemoryModel | None = None) -> None:
        self._config = config
        self._memory = memory or MemoryModel()
        self._cost = cost if config.max_batch_rows == "auto" else None
        self._rank = _POLICIES[config.policy]
        self._recent: dict[str, deque[_Point]] = {}  # the last calls of a request's denoising loop

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._recent.pop(request_id, None)

    def admit(self, waiting: Iterable[Waiting], num_running: int, now: float) -> tuple[list[str], float]:
        """The requests to start now, and in how many seconds to ask again where they wait for company."""
        queue = sorted(waiting, key=lambda w: (-w.priority, self._rank(w, now), w.order))
        if not queue:
            return [], 0.0
        if self._config.step_execution:
            return [w.request_id for w in queue[: self._places(num_running)]], 0.0
        return self._wave(queue, num_running, now)

    def _wave(self, queue: Sequence[Waiting], num_running: int, now: float) -> tuple[list[str], float]:
        """Request mode: equal requests from the head of the queue, up to the first that differs, when none runs."""
        if num_running:
            return [], 0.0
        wave: list[Waiting] = []
        places = self._places(0)
        for request in queue[:places]:
            if request.key != queue[0].key:
                break
            wave.append(request)
        wait = min(w.since for w in wave) + self._config.request_batch_max_wait_ms / 1000 - now
        full = len(wave) == places or len(wave) < len(queue)
        if wait > 0 and not full:
            return [], wait
        return [w.request_id for w in wave], 0.0

    def _places(self, num_running: int) -> int:
        """How many more requests may run, by their number and by memory."""
        room = self._memory.room(num_running)
        free = self._config.max_num_seqs - num_running
        return max(free if room is None else min(free, room), 0)

    def next_forward(
        self, pending: Iterable[Pending], row_limits: Mapping[Hashable, int], now: float = 0.0
    ) -> list[Pending]:
        """The calls of the next forward, oldest first; empty when nothing is pending.

        `row_limits` holds what was learned of a signature: the most rows that one forward of it can take.
        """
        calls = sorted(pending, key=lambda p: (-p.priority, p.stage, self._rank(p, now), p.order))
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
        others = [call for call in calls if call is not head and call.signature == head.signature]
        others.sort(key=lambda call: (_length(call) != _length(head), call.places != head.places))  # equal ones first
        max_rows = min(row_limits.get(head.signature, _NO_LIMIT), self._max_rows(head, others))
        max_tokens = self._config.max_batch_tokens or _NO_LIMIT
        group, rows, tokens, longest, shape = [head], head.rows, head.tokens, _length(head), head.shape
        for call in others:
            wider = max(longest, _length(call))
            filled = (tokens + call.tokens) / ((rows + call.rows) * wider)
            if head.stage == DENOISE and filled < 1 - self._config.resolution_tolerance - 1e-9:
                continue
            larger = call.shape if _length(call) > longest else shape
            if (
                rows + call.rows <= max_rows
                and tokens + call.tokens <= max_tokens
                and self._memory.fits(larger, rows + call.rows, len(calls))
            ):
                group.append(call)
                rows, tokens, longest, shape = rows + call.rows, tokens + call.tokens, wider, larger
        return group if self._packing_pays(group, shape) else [call for call in group if call.places == head.places]

    def _packing_pays(self, group: Sequence[Pending], shape: str) -> bool:
        """Whether calls of several sizes, the largest of `shape`, are sooner done in one forward than in several."""
        parts: dict[Hashable, list[Pending]] = {}
        for call in group:
            parts.setdefault(call.places, []).append(call)
        if self._cost is None or len(parts) < 2:
            return True
        return self._cost.packing_pays(
            shape, [(calls[0].shape, sum(c.rows for c in calls)) for calls in parts.values()]
        )

    def _max_rows(self, head: Pending, others: Sequence[Pending]) -> int:
        """The configured limit; with `auto`, the rows at which one more stops paying."""
        if self._config.batch_invariant:
            return self._config.invariant_rows(head.rows)
        if self._cost is not None:
            return self._cost.best_rows(head.shape, head.rows + sum(call.rows for call in others))
        limit = self._config.max_batch_rows
        return limit if isinstance(limit, int) else _NO_LIMIT


def stage_of(component: str, method: str) -> int:
    """ENCODE, DECODE or DENOISE, from a component's name in its pipeline."""
    if method == "decode" or component.startswith(("vocoder", "safety_checker", "movq", "vqgan", "vqvae")):
        return DECODE
    if method != "forward" or "encoder" in component or component.startswith(("vae", "image_", "text_", "feature")):
        return ENCODE
    return DENOISE


def _length(call: Pending) -> float:
    """Tokens in a row."""
    return call.tokens / call.rows


def _oldest(item: Pending | Waiting, now: float) -> tuple[float, ...]:
    return ()


def _shortest(item: Pending | Waiting, now: float) -> tuple[float, ...]:
    """Predicted work left, less a share of the time since submission: whoever waits long enough is shortest."""
    return (item.remaining + _AGING * item.since,)


def _earliest_deadline(item: Pending | Waiting, now: float) -> tuple[float, ...]:
    """Deadlines in order; then those without; last those that can't be met any more."""
    if item.deadline is None:
        return (1, 0.0)
    return (2 if now + item.remaining > item.deadline else 0, item.deadline)


_AGING = 0.5  # seconds of predicted work that a second of waiting is worth
_POLICIES: dict[Policy, Callable[[Pending | Waiting, float], tuple[float, ...]]] = {
    "fifo": _oldest,
    "sjf": _shortest,
    "deadline": _earliest_deadline,
}
_NO_LIMIT = 2**62
_CYCLE = 4  # calls of a denoising loop that are remembered
_Point = tuple[str, float]  # a module, and the tokens in each row


def _point(call: Pending) -> _Point:
    return call.module, _length(call)
