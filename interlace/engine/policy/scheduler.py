"""Decides which requests are admitted and which pending calls form the next forward. Knows nothing of torch.

Every policy is a sort key: the group of the first call in that order runs, with all that may share its forward.
"""

import itertools
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence

from interlace.config import EngineConfig
from interlace.engine.policy.cost import CostModel
from interlace.engine.policy.line import Line
from interlace.engine.policy.memory import MemoryModel
from interlace.engine.policy.pending import DECODE, DENOISE, Pending, length_of
from interlace.engine.policy.ranks import RANKS
from interlace.engine.policy.sizes import SizeMixing


class Scheduler:
    """Picks by priority, stage, whose lane's turn it is, and policy. A request that can't join a
    forward never holds up those that can."""

    def __init__(self, config: EngineConfig, cost: CostModel | None = None, memory: MemoryModel | None = None) -> None:
        self._config = config
        self._memory = memory or MemoryModel()
        self._cost = cost if config.max_batch_rows == "auto" else None
        self._mixing = SizeMixing(config.resolution_tolerance, self._cost)
        self._rank = RANKS[config.policy]
        self._recent: dict[str, deque[_Point]] = {}  # the last calls of a request's denoising loop
        self._turns: dict[str, int] = {}  # by lane: when it had its last forward
        self._rounds: dict[_Point, set[_Point]] = {}  # what requests go through between two calls of one point
        self._on_their_way = 0  # forwards for which no request starts while those that did get to their denoiser
        self._leaving = False  # whether a decode is next, after the last forward

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._recent.pop(request_id, None)

    def admit(self, line: Line, num_running: int, now: float, most: int | None = None) -> tuple[list[str], float]:
        """The requests to start now, at most so many: they leave the line. And in how many seconds to ask again where
        they wait for company.

        Requests that come one after the other start together, once those that started have been in a forward of their
        denoiser: so their texts are encoded together as well. Nor does one start where another's decode is
        next: as many as leave one after the other are followed by as many that start together.
        """
        free = self.places(num_running)
        places = free if most is None else min(free, most)
        if self._config.step_execution:
            if num_running and (self._on_their_way > 0 or self._leaving):
                return [], 0.0
            heads = [one.request_id for one in line.take(places, now)]
            self._on_their_way = _WAY if heads else 0
            return heads, 0.0
        return self._wave(line, places, now) if num_running == 0 else ([], 0.0)

    def _wave(self, line: Line, places: int, now: float) -> tuple[list[str], float]:
        """Request mode: equal requests from the head of the line, up to the first that differs, when none runs."""
        heads = line.take(places, now)
        if not heads:
            return [], 0.0
        wave = list(itertools.takewhile(lambda one: one.key == heads[0].key, heads))
        line.put_back(heads[len(wave) :], now)
        wait = min(one.since for one in wave) + self._config.request_batch_max_wait_ms / 1000 - now
        if wait > 0 and len(wave) < places and not len(line):
            line.put_back(wave, now)
            return [], wait
        return [one.request_id for one in wave], 0.0

    def places(self, num_running: int) -> int:
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
        turns = self._turns
        calls = sorted(pending, key=lambda p: (-p.priority, p.stage, turns.get(p.lane, 0), self._rank(p, now), p.order))
        if not calls:
            self._on_their_way, self._leaving = 0, False
            return []
        group = self._group(self._laggard(calls) or calls[0], calls, row_limits)
        self._on_their_way = 0 if group[0].stage == DENOISE else self._on_their_way - 1
        taken = {call.request_id for call in group}
        self._leaving = next((call.stage == DECODE for call in calls if call.request_id not in taken), False)
        turns[group[0].lane] = max(turns.values(), default=0) + 1
        for call in group:
            if call.stage == DENOISE:
                self._note(call)
        return group

    def _note(self, call: Pending) -> None:
        """Remember where a request is in its loop; once round, what lies between is known of all requests."""
        recent, here = self._recent.setdefault(call.request_id, deque(maxlen=_CYCLE)), _point(call)
        if recent and recent[-1] != here and here in recent:
            passed = self._rounds.setdefault(here, set())
            for point in reversed(recent):
                if point == here:
                    break
                passed.add(point)
        recent.append(here)

    def _laggard(self, calls: Sequence[Pending]) -> Pending | None:
        """The oldest call, if any, that the head's request has just been through on its way to its own.

        In a loop over several modules (ControlNet, then UNet) such a request is one call away from sharing the head's;
        so is one that has a ControlNet where the head's has none.
        """
        head = calls[0]
        passed = set(self._rounds.get(_point(head), ()))
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
        max_rows = min(row_limits.get(head.signature, _NO_LIMIT), self._max_rows(head, others))
        max_tokens = self._config.max_batch_tokens or _NO_LIMIT

        def fits(shape: str, rows: int, tokens: int) -> bool:
            return rows <= max_rows and tokens <= max_tokens and self._memory.fits(shape, rows, len(calls))

        return self._mixing.group(head, others, fits)

    def _max_rows(self, head: Pending, others: Sequence[Pending]) -> int:
        """The configured limit; with `auto`, the rows at which one more stops paying."""
        if self._config.batch_invariant:
            return self._config.invariant_rows(head.rows)
        if self._cost is not None:
            return self._cost.best_rows(head.shape, head.rows + sum(call.rows for call in others))
        limit = self._config.max_batch_rows
        return limit if isinstance(limit, int) else _NO_LIMIT


_NO_LIMIT = 2**62
_WAY = 8  # forwards: text encoders, a picture to begin with
_CYCLE = 40  # calls of a denoising loop that are remembered
_Point = tuple[str, float]  # a module, and the tokens in each row


def _point(call: Pending) -> _Point:
    return call.module, length_of(call)
