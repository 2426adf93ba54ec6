"""Runs calls: fused where their kind has proved itself, alone otherwise, halved when a fused forward fails.

Knows nothing of strands, queues or policies: calls in, one outcome a call out; it never raises for a call's fault.
"""

import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from interlace.config import EngineConfig
from interlace.engine.ambient import Ambient
from interlace.engine.call import ModuleCall
from interlace.engine.cost import CostModel, packed_shape
from interlace.engine.first_block import FirstBlockCache
from interlace.engine.fitting import Fitting
from interlace.engine.fuse import close, differing, fuse, packed, split
from interlace.engine.memory import MemoryModel
from interlace.engine.positions import KnownTables
from interlace.engine.ragged import rows_of
from interlace.errors import TooLargeError

logger = logging.getLogger("interlace.engine")
_MAX_CHECKED = 4  # calls of a group that are also run alone when a kind is verified


@dataclass(slots=True)
class Outcome:
    """What became of one call: `value`, or the `error` it raised; `rows` and `seconds` of its forward."""

    value: Any = None
    error: BaseException | None = None
    rows: int = 1
    seconds: float = 0.0


@dataclass
class ExecutorStats:
    """Counts by module label ("transformer", "vae.decode"); `unfused` by kind, with the reason."""

    forwards: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    widths: Counter[tuple[str, int]] = field(default_factory=Counter)  # forwards by label and rows
    text_tokens: int = 0  # places for them in shared forwards whose texts could differ in length
    padded_tokens: int = 0  # of these, filled up
    unfused: dict[str, str] = field(default_factory=dict)
    verified: int = 0
    halved: int = 0
    out_of_memory: int = 0
    forward_seconds: float = 0.0


class Executor:
    """Executes groups of calls with equal signatures."""

    def __init__(
        self,
        config: EngineConfig,
        cost: CostModel | None = None,
        blocks: FirstBlockCache | None = None,
        fitting: Fitting | None = None,
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._verify = config.verify_fusion
        self._cost = cost or CostModel()
        self._fitting = fitting or Fitting(MemoryModel())
        self._tables = KnownTables()
        self._warm: set[tuple[str, int]] = set()  # what ran before: the first time takes longer
        self._shapes: dict[Hashable, str] = {}
        self._proven: dict[Hashable, set[int]] = {}  # kind -> leaves seen to differ in a fusion that was right
        self._refused: set[Hashable] = set()
        self.row_limits: dict[Hashable, int] = {}  # what `signature` gives -> most rows that a forward could hold
        self.stats = ExecutorStats()

    def signature(self, call: ModuleCall) -> Hashable:
        """What must be equal for calls to share; None when this one can't or was found to give wrong results shared."""
        if call.unfusable:
            self._note(call, call.unfusable)
            return None
        if (call.kind, False) in self._refused:
            return None
        if self._config.batch_invariant:
            return call.signature, call.lengths, call.rows
        if self._blocks is not None or (call.kind, True) in self._refused:  # blocks are remembered at their own length
            return call.signature, call.lengths
        return call.signature if self._config.resolution_tolerance else (call.signature, call.places)

    def shape(self, call: ModuleCall) -> str:
        """By what the cost of a call is known."""
        if call.unfusable:
            return ""
        key = call.signature, call.tokens // call.rows  # pictures of several sizes may have one signature
        if key not in self._shapes:
            self._shapes[key] = call.shape
        return self._shapes[key]

    def refusal(self, call: ModuleCall) -> TooLargeError | None:
        """The error for a call that takes more memory than there is, even alone."""
        rows = self._config.invariant_rows(call.rows) if self._config.batch_invariant else call.rows
        return self._fitting.refusal(call, self.shape(call), rows)

    def run(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient]) -> list[Outcome]:
        """One outcome a call, in order. `ambients[i]` is the torch state of the strand that made call i."""
        if len(calls) == 1 and not self._filled(calls):
            return [self._alone(calls[0], ambients[0])]
        news = self._unproven(calls)
        if news is None or self._verify == "always":
            return self._verified(calls, ambients, differing(calls))
        return self._verified(calls, ambients, news) if news else self._shared(calls, ambients)

    def _unproven(self, calls: Sequence[ModuleCall]) -> frozenset[int] | None:
        """The leaves that differ in these calls and never did in a checked fusion; None for a new kind."""
        if self._verify == "off":
            return frozenset()
        proven = self._proven.get(_kind(calls))
        if proven is None:
            return None
        return differing(calls, proven)

    def _filled(self, calls: Sequence[ModuleCall]) -> list[ModuleCall]:
        """What fills a forward up to its fixed number of rows in batch-invariant mode: copies of the first call."""
        if not self._config.batch_invariant or self.signature(calls[0]) is None:
            return []
        rows = calls[0].rows
        return [calls[0]] * (self._config.invariant_rows(rows) // rows - len(calls))

    def _alone(self, call: ModuleCall, ambient: Ambient) -> Outcome:
        start = perf_counter()
        try:
            with (
                ambient.installed(),
                self._remembering([call]),
                self._fitting.within(call, self.shape(call), call.rows),
                self._tables.within(call),
            ):
                value = call.target.run(*call.args, **call.kwargs)
        except Exception as error:
            return Outcome(error=error, seconds=self._count(call, call.rows, start, learn=False))
        return Outcome(value, None, call.rows, self._count(call, call.rows, start))

    def _fused(self, calls: Sequence[ModuleCall], ambient: Ambient) -> list[Outcome]:
        """One forward for all calls; raises whatever the module raises."""
        filled = [*calls, *self._filled(calls)]
        rows = sum(call.rows for call in filled)
        largest = max(calls, key=lambda call: call.tokens / call.rows)
        pack = packed(filled)
        positions = rows_of(filled, self._tables) if pack else self._tables.within(calls[0])
        with self._remembering(filled), positions, self._fitting.within(largest, self.shape(largest), rows):
            args, kwargs = fuse(filled)
            start = perf_counter()
            ambient.install()  # never captured: what a shared forward does to random numbers is no strand's business
            output = calls[0].target.run(*args, **kwargs)
        seconds = self._count(largest, rows, start, packed_shape(self.shape(largest)) if pack else None)
        return [Outcome(value, None, rows, seconds) for value in split(output, filled)[: len(calls)]]

    def _remembering(self, calls: Sequence[ModuleCall]) -> contextlib.AbstractContextManager[None]:
        """Tells the first block cache whose rows the forward within has."""
        memories = [call.memory for call in calls if call.memory is not None]
        if self._blocks is None or len(memories) < len(calls):
            return contextlib.nullcontext()
        return self._blocks.rows(memories, [call.rows for call in calls])

    def _shared(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient]) -> list[Outcome]:
        try:
            return self._fused(calls, ambients[0])
        except Exception as error:
            if len(calls) == 1:
                return [Outcome(error=error)]
            return self._halved(calls, ambients, error)

    def _halved(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient], error: Exception) -> list[Outcome]:
        if isinstance(error, torch.OutOfMemoryError):
            self.stats.out_of_memory += 1
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.stats.halved += 1
        middle = len(calls) // 2
        logger.info("a forward of %s with %d calls failed (%s); halving", calls[0].target.label, len(calls), error)
        outcomes = self.run(calls[:middle], ambients[:middle]) + self.run(calls[middle:], ambients[middle:])
        if not any(outcome.error for outcome in outcomes):  # no one's fault: too many rows
            held = max(outcome.rows for outcome in outcomes)
            signature = self.signature(calls[0])
            self.row_limits[signature] = min(held, self.row_limits.get(signature, held))
        return outcomes

    def _verified(
        self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient], news: frozenset[int]
    ) -> list[Outcome]:
        """Run fused and, for a few of the calls, alone; refuse the kind when the two disagree."""
        try:
            outcomes = self._fused(calls, ambients[0])
            problem = ""
        except torch.OutOfMemoryError as error:
            return self._halved(calls, ambients, error) if len(calls) > 1 else [Outcome(error=error)]
        except Exception as error:
            outcomes, problem = [], f"the fused forward raised {type(error).__name__}: {error}"
        checked = sorted({round(i * (len(calls) - 1) / (_MAX_CHECKED - 1)) for i in range(_MAX_CHECKED)})
        alone = {i: self._alone(calls[i], ambients[i]) for i in checked}
        if not problem and not all(a.error is None and close(outcomes[i].value, a.value) for i, a in alone.items()):
            problem = "fused and alone gave different outputs"
        self.stats.verified += 1
        if problem and all(a.error is not None for a in alone.values()):
            problem = ""  # every one of them fails alone too: nothing is learned about fusing
            outcomes = []
        elif not problem:
            self._proven.setdefault(_kind(calls), set()).update(news)
        else:
            self._refused.add((calls[0].kind, _padded(calls)))
            self._note(calls[0], f"{problem} with texts of different lengths" if _padded(calls) else problem)
        if problem or not outcomes:
            rest = {i: self._alone(calls[i], ambients[i]) for i in range(len(calls)) if i not in alone}
            return [(alone | rest)[i] for i in range(len(calls))]
        if self._config.batch_invariant:
            return outcomes
        return [alone.get(i, outcome) for i, outcome in enumerate(outcomes)]

    def _note(self, call: ModuleCall, reason: str) -> None:
        label = f"{call.target.label} ({type(call.target.module).__name__})"
        if label not in self.stats.unfused:
            self.stats.unfused[label] = reason
            level = logging.INFO if call.unfusable else logging.WARNING
            logger.log(level, "%s is not shared between requests: %s", label, reason)

    def _count_texts(self, calls: Sequence[ModuleCall]) -> None:
        lengths = [call.texts.length for call in calls if call.texts is not None]
        places = max(lengths, default=0) * len(lengths)
        self.stats.text_tokens += places
        self.stats.padded_tokens += places - sum(lengths)

    def _count(
        self, call: ModuleCall, rows: int, start: float, shape: str | None = None, *, learn: bool = True
    ) -> float:
        shape = self.shape(call) if shape is None else shape
        waits = torch.cuda.is_available()  # for the device, to measure it
        measured = learn and bool(shape) and self._cost.wanted(shape, rows, free=not waits)
        if measured and waits:
            torch.cuda.synchronize()
        seconds = perf_counter() - start
        if measured and (shape, rows) in self._warm:
            self._cost.observe(shape, rows, seconds)
        self._warm.add((shape, rows))
        self.stats.forwards[call.target.label] += 1
        self.stats.rows[call.target.label] += rows
        self.stats.widths[call.target.label, rows] += 1
        self.stats.forward_seconds += seconds
        return seconds


def _kind(calls: Sequence[ModuleCall]) -> Hashable:
    """What has to be verified once: the calls' kind, how many rows each brings, and whether texts are padded."""
    return calls[0].kind, frozenset(call.rows for call in calls), _padded(calls)


def _padded(calls: Sequence[ModuleCall]) -> bool:
    return any(call.lengths != calls[0].lengths for call in calls)
