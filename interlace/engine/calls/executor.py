"""Runs calls: fused where their kind has proved itself, alone otherwise, halved when a fused forward fails.

Knows nothing of strands, queues or policies: calls in, one outcome a call out; it never raises for a call's fault.
"""

import contextlib
import gc
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from interlace.config import EngineConfig
from interlace.engine import accelerator
from interlace.engine.adapters.kinds import UnmixableError
from interlace.engine.adapters.sharing import Adapters, is_mixed
from interlace.engine.caches.first_block import FirstBlockCache
from interlace.engine.calls.cached.rows import KeptRows
from interlace.engine.calls.cached.text import Kept
from interlace.engine.calls.call import ModuleCall, Target
from interlace.engine.calls.checking.proofs import Proofs
from interlace.engine.calls.checking.verification import Verification
from interlace.engine.calls.controls.in_step import brought_into_step, in_step
from interlace.engine.calls.controls.in_step import groups as in_step_groups
from interlace.engine.calls.counts import ForwardCounts
from interlace.engine.calls.fuse import back_in_order, by_parts, fuse
from interlace.engine.calls.outcome import Outcome, hand_back, keeps
from interlace.engine.calls.packing.framed import own_frames
from interlace.engine.calls.packing.positions import KnownTables
from interlace.engine.calls.packing.ragged import rows_of
from interlace.engine.calls.split import packed, split
from interlace.engine.calls.timing import ForwardTimer
from interlace.engine.memory.fitting import Fitting
from interlace.engine.pipeline.ambient import Ambient
from interlace.engine.pipeline.variants.owner import seen_by
from interlace.engine.policy.cost import CostModel, packed_shape
from interlace.engine.policy.memory import MemoryModel
from interlace.errors import TooLargeError
from interlace.python.recent import Recent

logger = logging.getLogger("interlace.engine")
_MOST = 4096  # shapes, and signatures, that are remembered

RunModule = Callable[[Target, tuple[Any, ...], dict[str, Any]], Any]


def run_here(target: Target, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """In this process."""
    return target.run(*args, **kwargs)


class Executor:
    """Executes groups of calls with equal signatures."""

    def __init__(
        self,
        config: EngineConfig,
        cost: CostModel | None = None,
        blocks: FirstBlockCache | None = None,
        fitting: Fitting | None = None,
    ) -> None:
        self._config, self._blocks = config, blocks
        self._fitting = fitting or Fitting(MemoryModel())
        self._tables = KnownTables()
        self.adapters = Adapters(mixing=config.mix_adapters and blocks is None and not config.batch_invariant)
        self._shapes: Recent[Hashable, str] = Recent(_MOST)
        self._proofs = Proofs(config.verify_fusion)
        self.row_limits: Recent[Hashable, int] = Recent(_MOST)  # by `signature`: most rows that a forward could hold
        self.counts = ForwardCounts()
        self._timer = ForwardTimer(cost or CostModel(), self.counts)
        self._verification = Verification(self._proofs, self.adapters, self.counts, config.batch_invariant)
        self.run_module: RunModule = run_here  # over several ranks: what has them run it
        self._shared_state: Hashable = None  # of the modules that all ranks have

    def close(self) -> None:
        """What was wrapped for its forwards is as it was."""
        self._tables.close()
        if self._blocks is not None:
            self._blocks.close()

    def signature(self, call: ModuleCall) -> Hashable:
        """What must be equal for calls to share; None when this one can't or was found to give wrong results shared."""
        if call.unfusable:
            self.counts.alone(call, call.unfusable)
            return None
        if self._proofs.refuses(call):
            return None
        signature, adapters = self._signature(call), self.adapters.key(call)
        return signature if adapters is None else (signature, adapters)

    def _signature(self, call: ModuleCall) -> Hashable:
        signature = call.signature if call.wears is None else (call.signature, call.wears)
        if call.controls is not None and (self._config.batch_invariant or self._blocks is not None):
            signature = signature, call.controls
        if self._config.batch_invariant:
            return signature, call.lengths, call.rows
        if self._blocks is not None or self._proofs.refuses(call, padded=True):  # blocks keep to their own length
            return signature, call.lengths
        return signature if self._config.resolution_tolerance else (signature, call.places)

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
            return [self.alone(calls[0], ambients[0])]
        if len(calls) > 1 and not in_step(calls):
            return self._brought_into_step(calls, ambients)
        groups = self.adapters.groups(calls) if is_mixed(calls) else []
        if len(groups) > 1:
            return self._regrouped(groups, calls, ambients)
        news = self._proofs.to_verify(calls)
        if news is None:
            return self._shared(calls, ambients)
        return self._verification.run(calls, ambients, news, self)

    def _brought_into_step(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient]) -> list[Outcome]:
        """Calls with something from a ControlNet and calls without it."""
        groups = in_step_groups(calls)
        if len(groups) > 1:
            return self._regrouped(groups, calls, ambients)
        brought = brought_into_step(calls)
        if not in_step(brought):  # of a structure that nobody thought of
            return [self.alone(call, ambient) for call, ambient in zip(calls, ambients, strict=True)]
        return self.run(brought, ambients)

    def _regrouped(
        self, groups: Sequence[Sequence[int]], calls: Sequence[ModuleCall], ambients: Sequence[Ambient]
    ) -> list[Outcome]:
        """Adapters that were found not to mix, each group in a forward of its own."""
        outcomes: dict[int, Outcome] = {}
        for places in groups:
            ran = self.run([calls[place] for place in places], [ambients[place] for place in places])
            outcomes |= zip(places, ran, strict=True)
        return [outcomes[place] for place in range(len(calls))]

    def _filled(self, calls: Sequence[ModuleCall]) -> list[ModuleCall]:
        """What fills a forward up to a fixed number of rows, or up to a bucket: copies of the first call."""
        config, first = self._config, calls[0]
        if not (config.batch_invariant or config.row_buckets) or (signature := self.signature(first)) is None:
            return []
        if config.batch_invariant:
            return [first] * (config.invariant_rows(first.rows) // first.rows - len(calls))
        rows = sum(call.rows for call in calls)
        bucket = config.bucket_rows(rows)
        fits = bucket <= self.row_limits.get(signature, bucket) and self._fitting.memory.fits(self.shape(first), bucket)
        return [first] * ((bucket - rows) // first.rows) if fits and not keeps(first) else []

    def alone(self, call: ModuleCall, ambient: Ambient, before: Sequence[Kept | KeptRows] = ()) -> Outcome:
        """A call by itself, with what it changes as it was `before`."""
        for kept in before:
            kept.restore()
        call = call.original or call
        start = self._timer.start(call)
        try:
            with (
                ambient.installed(),
                self._remembering([call]),
                self._fitting.within(call, self.shape(call), call.rows),
                self._tables.within(call),
                self.adapters.within([call]),
            ):
                value = self._runner([call])(call.target, call.args, call.kwargs)
        except Exception as error:
            seconds = self._timer.ran(call.target.label, self.shape(call), call.rows, start, learn=False)
            return Outcome(error=error, seconds=seconds)
        return Outcome(value, None, call.rows, self._timer.ran(call.target.label, self.shape(call), call.rows, start))

    def fused(self, calls: Sequence[ModuleCall], ambient: Ambient, parts: int = 0) -> list[Outcome]:
        """One forward for all calls, their rows in `parts`; raises whatever the module raises."""
        filled = [*calls, *self._filled(calls)]
        rows = sum(call.rows for call in filled)
        largest = max(calls, key=lambda call: call.tokens / call.rows)
        pack = packed(filled)
        positions = rows_of(filled, self._tables) if pack else self._tables.within(calls[0])
        fitting = self._fitting.within(largest, self.shape(largest), rows)
        with self._remembering(filled), positions, own_frames(filled), fitting:
            parts = parts or self._proofs.parts(calls[0])
            order = by_parts(filled, parts) if parts > 1 else []
            args, kwargs = fuse(filled, order)
            start = self._timer.start(largest)
            with ambient.lent(), self.adapters.within(filled):  # what it does to random numbers is no strand's business
                if self._config.row_buckets:
                    torch.compiler.cudagraph_mark_step_begin()  # what graphs hold of the last forward is done with
                output = self._runner(filled)(calls[0].target, args, kwargs)
            output = back_in_order(output, order) if order else output
        shape = packed_shape(self.shape(largest)) if pack else self.shape(largest)
        seconds = self._timer.ran(largest.target.label, shape, rows, start)
        self.counts.texts(filled)
        values = split(output, filled)[: len(calls)]
        outcomes = [Outcome(value, None, rows, seconds) for value in values]
        hand_back(outcomes, calls, filled, dict(zip(calls[0].target.names, args, strict=False)) | kwargs)
        return outcomes

    def _runner(self, calls: Sequence[ModuleCall]) -> RunModule:
        """What other ranks can't see of a forward keeps it here: adapters, positions by the row, remembered blocks,
        and modules that a request or their owner has changed."""
        if self.run_module is run_here or self._blocks is not None or packed(calls):
            return run_here
        self._shared_state = calls[0].state if self._shared_state is None else self._shared_state
        same = all(call.adapters is None and call.wears is None and call.state == self._shared_state for call in calls)
        return self.run_module if same else run_here

    def _remembering(self, calls: Sequence[ModuleCall]) -> contextlib.ExitStack[bool | None]:
        """Tells whose forward it is: code in it that looks at the pipeline, and the first block cache."""
        memories, stack = [call.memory for call in calls if call.memory is not None], contextlib.ExitStack()
        stack.enter_context(seen_by(call.views for call in calls))
        if self._blocks is not None and len(memories) == len(calls):
            stack.enter_context(self._blocks.rows(memories, [call.rows for call in calls]))
        return stack

    def _shared(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient]) -> list[Outcome]:
        try:
            return self.fused(calls, ambients[0])
        except Exception as error:
            if len(calls) == 1:
                return [Outcome(error=error)]
            if isinstance(error, UnmixableError):
                self._verification.set_apart(calls, str(error))
                return self._regrouped(self.adapters.groups(calls), calls, ambients)
            return self.halved(calls, ambients, error)

    def halved(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient], error: Exception) -> list[Outcome]:
        """Calls whose shared forward failed: in two forwards, down to single calls."""
        if isinstance(error, torch.OutOfMemoryError):
            self.counts.out_of_memory += 1
            gc.collect()
            accelerator.empty_cache()
        self.counts.halved += 1
        middle = len(calls) // 2
        logger.info("a forward of %s with %d calls failed (%s); halving", calls[0].target.label, len(calls), error)
        outcomes = self.run(calls[:middle], ambients[:middle]) + self.run(calls[middle:], ambients[middle:])
        if not any(outcome.error for outcome in outcomes):  # no one's fault: too many rows
            held = max(outcome.rows for outcome in outcomes)
            signature = self.signature(calls[0])
            self.row_limits[signature] = min(held, self.row_limits.get(signature, held))
        return outcomes
