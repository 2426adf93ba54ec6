"""The loop: admit, schedule, execute, resume. Runs in one thread; `thread.py` gives it one and a public face."""

import logging
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from time import monotonic, perf_counter
from typing import Any

import torch
from diffusers import DiffusionPipeline

from interlace.config import EngineConfig
from interlace.engine.call import ModuleCall
from interlace.engine.cost import CostModel
from interlace.engine.exclusive import exclusive_reason
from interlace.engine.executor import Executor, Outcome
from interlace.engine.first_block import FirstBlockCache
from interlace.engine.fitting import Fitting
from interlace.engine.forecast import Forecast
from interlace.engine.fuse import tensors
from interlace.engine.intercept import Interception
from interlace.engine.memory import MemoryModel
from interlace.engine.preview import watch_steps
from interlace.engine.scheduler import DECODE, ENCODE, Pending, Scheduler, stage_of
from interlace.engine.shortcuts import Shortcuts
from interlace.engine.strand import Finished, Strand
from interlace.engine.ticket import Ticket
from interlace.engine.view import ViewFactory
from interlace.errors import AbortedError, DeadlineExceededError, NonFiniteOutputError

logger = logging.getLogger("interlace.engine")


class EngineCore:
    """Owns the strands of one pipeline. Not thread-safe: every method is called in the engine's thread."""

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        config: EngineConfig,
        cost: CostModel | None = None,
        memory: MemoryModel | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._config = config
        self.exclusive = exclusive_reason(type(pipeline))
        by_block = config.cache_type == "first_block_cache"  # first of all: it may refuse the pipeline
        self._blocks = FirstBlockCache(pipeline, config.threshold) if by_block else None
        self._interception = Interception(pipeline)
        self._views = ViewFactory(pipeline)
        self.cost = cost or CostModel()
        self._forecast = Forecast(type(pipeline).__call__, self.cost)
        self.memory = memory or MemoryModel()
        self._scheduler = Scheduler(config, self.cost, self.memory)
        self.executor = Executor(config, self.cost, self._blocks, Fitting(self.memory, pipeline.device))
        self.shortcuts = Shortcuts(config, self.executor, self._blocks)
        self._waiting: dict[str, Ticket] = {}
        self._running: dict[str, Ticket] = {}
        self.loop_seconds = 0.0
        self.strand_seconds = 0.0
        self._settled: list[tuple[Future[Any], Any, BaseException | None]] = []
        self.forwarding: tuple[str, ...] = ()  # the requests of the forward that runs, or ran last
        self.finished: dict[str, int] = {"ok": 0, "error": 0, "aborted": 0}

    @property
    def tickets(self) -> list[Ticket]:
        """Every request that has no result yet, oldest first."""
        return sorted([*self._waiting.values(), *self._running.values()], key=lambda t: t.order)

    def add(self, tickets: Iterable[Ticket]) -> None:
        """Queue requests; each one's future gets the pipeline's output or the error."""
        self._waiting.update((ticket.request_id, ticket) for ticket in tickets)

    def abort(self, request_id: str, error: BaseException | None = None) -> None:
        """End a request at the next forward, with `AbortedError` unless another error is given."""
        ticket = self._waiting.get(request_id) or self._running.get(request_id)
        if ticket is not None:
            ticket.aborted = error or AbortedError(f"request {request_id} was aborted")

    def step(self) -> float | None:
        """Run one forward. Returns the seconds to wait before the next: 0 for none, None when nothing is to be done."""
        start = perf_counter()
        self._drop_ended()
        wait = self._admit()
        group = self._schedule()
        if group:
            self._resume(group, self._execute(group))
        self.loop_seconds += perf_counter() - start
        self._tell()
        if group or self._running:
            return 0.0
        return wait if self._waiting else None

    def close(self, error: BaseException) -> None:
        """End every request with `error` and leave the pipeline as it was."""
        for ticket in self.tickets:
            self._end(ticket, error)
        self._tell()
        self._interception.close()
        if self._blocks is not None:
            self._blocks.close()

    def _drop_ended(self) -> None:
        now = monotonic()
        for ticket in self.tickets:
            if ticket.aborted is not None or ticket.deadline is None:
                pass
            elif now > ticket.deadline:
                waited = now - ticket.submitted
                ticket.aborted = DeadlineExceededError(f"request {ticket.request_id} not done after {waited:.2f} s")
            elif self._config.shed_hopeless and now + (left := self._left(ticket)) > ticket.deadline:
                ticket.aborted = DeadlineExceededError(
                    f"request {ticket.request_id} needs about {left:.2f} s more, its timeout ends in "
                    f"{max(ticket.deadline - now, 0):.2f} s; allow more time or send fewer requests"
                )
            if ticket.aborted is not None:
                self._end(ticket, ticket.aborted)

    def _admit(self) -> float:
        if not self._waiting:
            return 0.0
        if self.exclusive and self._running:
            return 0.0
        waiting = [ticket.waiting(self._left(ticket)) for ticket in self._waiting.values()]
        admitted, wait = self._scheduler.admit(waiting, len(self._running), monotonic())
        for request_id in admitted[:1] if self.exclusive else admitted:
            self._start(self._waiting.pop(request_id))
        return wait

    def _start(self, ticket: Ticket) -> None:
        self._running[ticket.request_id] = ticket
        ticket.metrics.queue_s = monotonic() - ticket.submitted
        self.shortcuts.start(ticket)
        ticket.strand = Strand(lambda: self._call_pipeline(ticket), ticket.ambient)
        self._advance(ticket, None)

    def _call_pipeline(self, ticket: Ticket) -> Any:
        view = self._views.make(lambda done, total: self._on_step(ticket, done, total))
        return view(**watch_steps(view, ticket))

    def _on_step(self, ticket: Ticket, done: int, total: int) -> None:
        ticket.metrics.num_steps, ticket.num_steps = done, total
        if ticket.on_step is not None:
            ticket.on_step(done, total, None)

    def _schedule(self) -> list[Ticket]:
        running = [ticket for ticket in self._running.values() if ticket.aborted is None]
        pending = [ticket.pending for ticket in running if ticket.pending is not None]
        group = self._scheduler.next_forward(pending, self.executor.row_limits, monotonic())
        return self.shortcuts.distinct([self._running[call.request_id] for call in group]) if group else []

    def _execute(self, group: list[Ticket]) -> list[Outcome]:
        calls = [ticket.call for ticket in group if ticket.call is not None]
        ambients = [ticket.ambient for ticket in group]
        self.forwarding = tuple(ticket.request_id for ticket in group)
        return self.executor.run(calls, ambients)

    def _resume(self, group: list[Ticket], outcomes: list[Outcome]) -> None:
        encoded = any(ticket.pending is not None and ticket.pending.stage == ENCODE for ticket in group)
        for ticket, outcome in zip(group, outcomes, strict=True):
            self._account(ticket, outcome)
            self._advance(ticket, outcome)
        if encoded:
            for ticket in list(self._running.values()):
                if ticket.aborted is None and (known := self.shortcuts.late(ticket)) is not None:
                    self._advance(ticket, Outcome(known))

    def _account(self, ticket: Ticket, outcome: Outcome) -> None:
        assert ticket.pending is not None
        metrics = ticket.metrics
        metrics.num_forwards += 1
        ticket.total_rows += outcome.rows
        ticket.num_rows = outcome.rows
        metrics.mean_rows = ticket.total_rows / metrics.num_forwards
        if ticket.pending.stage == ENCODE:
            metrics.encode_s += outcome.seconds
        elif ticket.pending.stage == DECODE:
            metrics.decode_s += outcome.seconds
        else:
            metrics.denoise_s += outcome.seconds
            ticket.num_denoised += 1
        if ticket.call is not None and outcome.error is None:
            try:
                outcome.value = self.shortcuts.learn(ticket, ticket.call, outcome.value)
            except Exception as error:  # no memory for a copy, say: this request's error, nobody else's
                outcome.error = error

    def _advance(self, ticket: Ticket, outcome: Outcome | None) -> None:
        """Run a strand up to its next call or its end."""
        assert ticket.strand is not None
        error = outcome.error if outcome else None
        if outcome and not error and ticket.pending and ticket.pending.stage == DECODE:
            error = self._not_finite(ticket, outcome.value)
        start = perf_counter()
        said = ticket.strand.resume(outcome.value if outcome else None, error)
        while isinstance(said, ModuleCall):
            try:
                said, known = self.shortcuts.take(ticket, said)
            except Exception as failure:
                said = ticket.strand.resume(None, failure)
                continue
            if known is None:
                break
            said = ticket.strand.resume(known)
        self.strand_seconds += perf_counter() - start
        if isinstance(said, ModuleCall):
            ticket.call, ticket.pending = said, self._describe(ticket, said)
            ticket.aborted = ticket.aborted or self.executor.refusal(said)
        else:
            self._finish(ticket, said)

    def _not_finite(self, ticket: Ticket, value: Any) -> NonFiniteOutputError | None:
        """The error for NaN or Inf in a result; None when all is well or nobody asked."""
        if not self._config.check_finite or all(
            bool(torch.isfinite(t).all()) for t in tensors(value) if t.is_floating_point()
        ):
            return None
        return NonFiniteOutputError(
            f"the model gave NaN or Inf for request {ticket.request_id}; try another dtype (bfloat16 or float32), "
            "seed or guidance scale"
        )

    def _describe(self, ticket: Ticket, call: ModuleCall) -> Pending:
        pending = Pending(
            ticket.request_id,
            call.target.label,
            self.executor.signature(call),
            stage_of(call.target.component, call.target.method),
            call.rows,
            call.tokens,
            ticket.order,
            ticket.priority,
            self.executor.shape(call),
            since=ticket.submitted,
            deadline=ticket.deadline,
            places=call.places,
        )
        return pending if self._config.policy == "fifo" else replace(pending, remaining=self._left(ticket, pending))

    def _left(self, ticket: Ticket, pending: Pending | None = None) -> float:
        """Predicted seconds that the request would still take alone."""
        pending = pending or ticket.pending
        if pending is None:
            return self._forecast.waiting(ticket.kwargs)
        done = ticket.metrics.num_steps
        return self._forecast.running(ticket.kwargs, pending, done, ticket.num_steps, ticket.num_denoised)

    def _finish(self, ticket: Ticket, said: Finished) -> None:
        error = said.error
        if error is None:
            error = self._not_finite(ticket, said.value)
        if error is not None:
            self._interception.restore_baselines()
        self._settle(ticket, said.value, error)

    def _end(self, ticket: Ticket, error: BaseException) -> None:
        """End a request from outside: throw into its strand, free its slot, give its owner the error."""
        if ticket.strand is not None:
            ticket.strand.stop(error)
            self._interception.restore_baselines()
        self._settle(ticket, None, error)

    def _settle(self, ticket: Ticket, value: Any, error: BaseException | None) -> None:
        self._running.pop(ticket.request_id, None)
        self._waiting.pop(ticket.request_id, None)
        self._scheduler.forget(ticket.request_id)
        ticket.metrics.total_s = monotonic() - ticket.submitted
        ticket.call = ticket.pending = ticket.strand = ticket.step_cache = ticket.guidance = None
        ticket.block_memories.clear()
        outcome = "ok" if error is None else "aborted" if isinstance(error, AbortedError) else "error"
        self.finished[outcome] += 1
        if not self._running:
            self.forwarding = ()
            self._free_hooks()
        self._settled.append((ticket.future, value, error))

    def _tell(self) -> None:
        """Hand out what has ended, last in a step, so that whoever waits finds the counts complete."""
        settled, self._settled = self._settled, []
        for future, value, error in settled:
            if not future.done():
                _set(future, value, error)

    def _free_hooks(self) -> None:
        if getattr(self._pipeline, "_all_hooks", None):
            self._pipeline.maybe_free_model_hooks()


def _set(future: "Future[Any]", value: Any, error: BaseException | None) -> None:
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
