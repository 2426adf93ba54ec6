"""The loop: admit, schedule, execute, resume. Runs in one thread; `engine.py` gives it one and a public face."""

from collections.abc import Callable, Iterable
from time import monotonic, perf_counter
from typing import Any

from diffusers import DiffusionPipeline

from interlace.config import EngineConfig
from interlace.engine.caches.first_block import FirstBlockCache
from interlace.engine.caches.shortcuts import Shortcuts
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.executor import Executor, run_here
from interlace.engine.calls.outcome import Outcome
from interlace.engine.lists.lists import ListCall, Lists
from interlace.engine.memory.fitting import Fitting
from interlace.engine.pipeline.routine import Routine
from interlace.engine.pipeline.strand import Finished, Parked
from interlace.engine.pipeline.tenancy import Tenancy
from interlace.engine.pipeline.variants.owner import stock_class
from interlace.engine.policy.cost import CostModel
from interlace.engine.policy.forecast import Forecast
from interlace.engine.policy.memory import MemoryModel
from interlace.engine.policy.pending import DENOISE, ENCODE, Pending
from interlace.engine.policy.scheduler import Scheduler
from interlace.engine.ticket import Ticket
from interlace.engine.tickets.admission import LOOK_S, TicketAdmission
from interlace.engine.tickets.aside import Aside
from interlace.engine.tickets.endings import Endings
from interlace.engine.tickets.finishing import Finishing
from interlace.engine.tickets.lobby import Lobby
from interlace.engine.tickets.prospects import Prospects
from interlace.engine.tickets.runs import Runs
from interlace.errors import AbortedError


class EngineCore:
    """Owns the strands of one pipeline. Not thread-safe: every method is called in the engine's thread."""

    def __init__(
        self,
        pipeline: DiffusionPipeline | Routine,
        config: EngineConfig,
        cost: CostModel | None = None,
        memory: MemoryModel | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._config = config
        blocks = FirstBlockCache.of(pipeline, config)  # first of all: it may refuse the pipeline
        self.tenancy = Tenancy(pipeline)
        self.cost = cost or CostModel()
        self.memory = memory or MemoryModel()
        self._scheduler = Scheduler(config, self.cost, self.memory)
        self.executor = Executor(config, self.cost, blocks, Fitting(self.memory, pipeline.device))
        self.shortcuts = Shortcuts(config, self.executor, blocks)
        forecast = Forecast(stock_class(pipeline).__call__, self.cost)
        self.runs = Runs(config, self.tenancy, self.executor, self.shortcuts)
        self._prospects = Prospects(config, self.executor, forecast, getattr(pipeline, "lanes", None))
        self.lobby = Lobby(config, self._prospects, self._scheduler)
        self.tenancy.on_change, self.tenancy.on_apart = self.executor.adapters.changed, self.executor.counts.alone
        self.lists = Lists(config, self.cost)
        self._admission = TicketAdmission(self.tenancy, self.lobby, self.lists, self._may_join)
        self._finishing = Finishing()
        overlaps = lambda: config.overlap_decode and self.executor.run_module is run_here  # noqa: E731
        self._aside = Aside(pipeline.device, self.memory, overlaps)
        self._running: dict[str, Ticket] = {}
        self.post: Callable[[Callable[[], object]], object] = lambda message: message()  # in the engine's thread
        self.own_seconds = 0.0
        self.endings = Endings()
        self._num_kept = 0
        self.forwarding: tuple[str, ...] = ()  # the requests of the forward that runs, or ran last

    @property
    def tickets(self) -> list[Ticket]:
        """Every request that has no result yet, and every call with lists for several, oldest first."""
        return sorted([*self.lobby.tickets, *self._running.values()], key=lambda t: t.order)

    def add(self, tickets: Iterable[Ticket]) -> None:
        """Queue requests; each one's future gets the pipeline's output or the error."""
        self.lobby.add(tickets)

    def abort(self, request_id: str, error: BaseException | None = None) -> None:
        """End a request at the next forward, with `AbortedError` unless another error is given."""
        error = error or AbortedError(f"request {request_id} was aborted")
        if request_id in self.lobby:
            self.lobby.abort(request_id, error)
        elif request_id in self._running:
            self._running[request_id].aborted = error

    def weights_changed(self, num_bytes: int) -> int | None:
        """Weights of so many bytes came (below 0: went). Bytes that are left for forwards; None: no limit."""
        self.executor.adapters.changed()
        return self.memory.weights_changed(num_bytes)

    def step(self) -> float | None:
        """Run one forward. Returns the seconds to wait before the next: 0 for none, None when nothing is to be done."""
        with self.tenancy.commons.step():
            start = perf_counter() - self.runs.busy_seconds
            self._drop_ended()
            wait = self._admit()
            group = self._schedule()
            for ticket, value, error in self._finishing.ended(wait=not group):
                if self._running.get(ticket.request_id) is ticket:  # not ended otherwise
                    self._settle(ticket, value, error)
            if group:
                self._run(group)
            self.own_seconds += perf_counter() - self.runs.busy_seconds - start
            goes_on = bool(group) or any(not ticket.parked for ticket in self._running.values())
            if not goes_on:
                self.tenancy.commons.rest()
        self.endings.tell()
        if goes_on:
            return 0.0
        if any(ticket.deadline is not None for ticket in self._running.values()):
            return LOOK_S
        return wait if self.lobby else None

    def wake(self, ticket: Ticket) -> None:
        """What a parked request waits for is there."""
        if ticket.parked and ticket.strand is not None:
            ticket.parked = False
            with self.tenancy.commons.step():
                self._advance(ticket, None)
            self.endings.tell()

    def close(self, error: BaseException) -> None:
        """End every request with `error` and leave the pipeline as it was."""
        with self.tenancy.commons.step():
            for ticket in self.tickets:
                if self.lists.call_of(ticket) is None:  # a call with lists ends with the last request in it
                    self._end(ticket, error)
            self.tenancy.close()
            self.executor.close()
        self.endings.tell()

    def _drop_ended(self) -> None:
        """End what was aborted, what is too late and, where that is asked for, what can't be in time any more.

        Every request that runs is looked at; of those that wait a few, however many they are.
        """
        now = monotonic()
        for ticket in list(self._running.values()):
            if ticket.aborted is None and ticket.deadline is not None:
                ticket.aborted = self._prospects.lateness(ticket, now)
            if ticket.aborted is not None:
                self._end(ticket, ticket.aborted)
        for ticket, error in self.lobby.dropped():
            self._end(ticket, error)

    def _admit(self) -> float:
        groups, wait = self._admission.groups(self._running)
        for group in groups:
            self._start(group[0]) if len(group) == 1 else self._start_list(group)
        return wait

    def _may_join(self) -> bool:
        """Whether requests may run as one call: not where texts are cached one by one, or rows are counted."""
        known = self.shortcuts.prompt_cache is not None or self.memory.budget is not None
        return not known and self.executor.run_module is run_here and not isinstance(self._pipeline, Routine)

    def _start_list(self, members: list[Ticket]) -> None:
        call = self.lists.join(members)
        for ticket in members:
            self._running[ticket.request_id] = ticket
            ticket.metrics.queue_s = monotonic() - ticket.submitted
        for ticket in (call.leader, *call.checked):
            self._start(ticket)

    def _start(self, ticket: Ticket) -> None:
        self._running[ticket.request_id] = ticket
        ticket.metrics.queue_s = monotonic() - ticket.submitted
        try:
            self.runs.start(ticket)
        except Exception as error:  # adapters that nobody has loaded, say
            self._settle(ticket, None, error)
            return
        self._advance(ticket, None)

    def _schedule(self, may: Callable[[Pending], bool] = bool) -> list[Ticket]:
        """The requests of the next forward, of calls that `may` be in it."""
        running = [ticket for ticket in self._running.values() if ticket.aborted is None]
        if self._num_kept != self.tenancy.num_kept:
            self._num_kept = self.tenancy.num_kept
            for ticket in running:
                if ticket.call is not None:
                    self.runs.look_again(ticket, ticket.call)
                    ticket.pending = self._prospects.pending(ticket, ticket.call)
        pending = [ticket.pending for ticket in running if ticket.pending is not None and may(ticket.pending)]
        group = self._scheduler.next_forward(pending, self.executor.row_limits, monotonic())
        return self.shortcuts.distinct([self._running[call.request_id] for call in group]) if group else []

    def _run(self, group: list[Ticket]) -> None:
        """One forward, or a decode and another forward beside it; their requests go on."""
        if self._aside.takes(group):
            self._aside.run(group, self._schedule, self._execute, self._resume)
        else:
            self._resume(group, self._execute(group))

    def _execute(self, group: list[Ticket]) -> list[Outcome]:
        calls = [ticket.call for ticket in group if ticket.call is not None]
        ambients = [ticket.ambient for ticket in group]
        self.forwarding = self.lists.names(group)
        if group[0].strand is not None:
            self.tenancy.wear(group[0].strand, calls)
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
        ticket.took_part(ticket.pending.stage, outcome.rows, outcome.seconds)
        if ticket.num_denoised == 1 and ticket.pending.stage == DENOISE:
            self.lists.learn(ticket)
        if ticket.call is not None and outcome.error is None:
            try:
                outcome.value = self.shortcuts.learn(ticket, ticket.call, outcome.value)
            except Exception as error:  # no memory for a copy, say: this request's error, nobody else's
                outcome.error = error

    def _advance(self, ticket: Ticket, outcome: Outcome | None) -> None:
        """Run a strand up to its next call or its end."""
        said = self.runs.advance(ticket, outcome)
        if isinstance(said, Parked):
            ticket.call, ticket.pending, ticket.parked = None, None, True
            said.when(lambda: self.post(lambda: self.wake(ticket)))
            return
        if isinstance(said, Finished):
            self._finish(ticket, said)
            return
        try:
            ticket.call, ticket.pending = said, self._describe(ticket, said)
            ticket.aborted = ticket.aborted or self.executor.refusal(said)
        except Exception as failure:  # arguments of a kind that nobody thought of: this request's error
            ticket.aborted = failure

    def _describe(self, ticket: Ticket, call: ModuleCall) -> Pending:
        self.tenancy.mark(ticket.strand, call)
        return self._prospects.pending(ticket, call)

    def _finish(self, ticket: Ticket, said: Finished) -> None:
        error = said.error
        if error is None:
            error = self.runs.look(ticket, said.value)
            self._aside.hand_over(said.value)
        if ticket.strand is not None:
            self.executor.counts.inline(ticket.strand.inline)
        if error is None and ticket.doubts:
            ticket.call = ticket.pending = None
            self._finishing.add(ticket, said.value)
        else:
            self._settle(ticket, said.value, error)

    def _end(self, ticket: Ticket, error: BaseException) -> None:
        """End a request from outside: throw into its strand, free its slot, give its owner the error."""
        if ticket.strand is not None:
            self.tenancy.stop(ticket.strand, error)
        self._settle(ticket, None, error)

    def _settle(self, ticket: Ticket, value: Any, error: BaseException | None) -> None:
        self._running.pop(ticket.request_id, None)
        self.lobby.remove(ticket)
        self._scheduler.forget(ticket.request_id)
        ticket.metrics.total_s = monotonic() - ticket.submitted
        ticket.call = ticket.pending = ticket.strand = ticket.step_cache = ticket.guidance = None
        ticket.block_memories.clear()
        if (call := self.lists.call_of(ticket)) is not None:
            self.lists.ended(call, value, error)
            self._part(call)
            return
        self._rest()
        self.endings.add(ticket, value, error)
        if (call := self.lists.leave(ticket, value, error)) is not None:
            self._part(call)

    def _part(self, call: ListCall) -> None:
        """Something has ended that a call with lists is about: itself, or a request in it."""
        if not call.left and call.leader.request_id in self._running:
            self._end(call.leader, AbortedError("nobody waits for this call any more"))
            self._rest()
        elif (decision := self.lists.decided(call)) is not None:
            for ticket, value in decision.outputs:
                self._settle(ticket, value, None)
            for ticket in decision.apart:
                self._start(ticket)

    def _rest(self) -> None:
        """Nobody runs: nothing is in a forward, and offloading gives back what it holds."""
        if not self._running:
            self.forwarding = ()
            if getattr(self._pipeline, "_all_hooks", None):
                self.tenancy.free_hooks()
