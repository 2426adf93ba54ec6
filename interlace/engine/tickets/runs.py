"""A request's own code: started on its view of the pipeline, and run up to its next call that has to be waited for."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from interlace.config import EngineConfig
from interlace.engine.adapters.loaded import LoadedAdapters
from interlace.engine.caches.shortcuts import Shortcuts
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.executor import Executor
from interlace.engine.calls.finite import finite, made, not_finite
from interlace.engine.calls.outcome import Outcome
from interlace.engine.pipeline.strand import Finished, Parked
from interlace.engine.pipeline.tenancy import Tenancy
from interlace.engine.pipeline.variants.inplace import callbacks
from interlace.engine.policy.pending import DECODE
from interlace.engine.preview import watch_steps
from interlace.engine.ticket import Ticket
from interlace.errors import NonFiniteOutputError


class Runs:
    """For one engine, in its thread, within a step. `seconds` is what requests' own code has taken so far."""

    def __init__(self, config: EngineConfig, tenancy: Tenancy, executor: Executor, shortcuts: Shortcuts) -> None:
        self._check_finite = config.check_finite
        self._tenancy, self._executor, self._shortcuts = tenancy, executor, shortcuts
        self.loaded = LoadedAdapters(tenancy)
        self.seconds = 0.0

    def start(self, ticket: Ticket) -> None:
        """Gives it a strand. Raises what putting on its outfit or its adapters raises."""
        if ticket.adapters:
            self._tenancy.refresh()
            self.loaded.check(ticket.adapters)
        self._shortcuts.start(ticket)
        ticket.strand = self._tenancy.start(
            lambda view: _call_pipeline(ticket, view),
            ticket.ambient,
            _stepped(ticket),
            ticket.parts,
            ticket.outfit,
            strangers=ticket.strangers,
            pipeline=ticket.pipeline,
        )

    @property
    def busy_seconds(self) -> float:
        """What the requests' own code and all forwards have taken so far."""
        return self.seconds + self._executor.counts.seconds

    def advance(self, ticket: Ticket, outcome: Outcome | None) -> ModuleCall | Parked | Finished:
        """From what its call came to, up to the next call that no cache answers, or to its end."""
        assert ticket.strand is not None
        error = outcome.error if outcome else None
        if outcome and not error and ticket.pending and ticket.pending.stage == DECODE:
            error = self.look(ticket, outcome.value)
        start = perf_counter()
        said = self._tenancy.resume(ticket.strand, outcome.value if outcome else None, error)
        while isinstance(said, ModuleCall):
            said.requests = ticket.num_requests
            try:
                self._executor.adapters.put_on(said, ticket.adapters)
                said, known = self._shortcuts.take(ticket, said)
            except Exception as failure:
                said = self._tenancy.resume(ticket.strand, None, failure)
                continue
            if known is None:
                break
            said = self._tenancy.resume(ticket.strand, known)
        self.seconds += perf_counter() - start
        return said

    def look_again(self, ticket: Ticket, call: ModuleCall) -> None:
        """Their owner has changed the modules while `call` waits: its request keeps what was there."""
        if ticket.strand is not None:
            self._tenancy.wear(ticket.strand)
        self._tenancy.mark(ticket.strand, call)
        self._executor.adapters.put_on(call, ticket.adapters)

    def look(self, ticket: Ticket, value: object) -> NonFiniteOutputError | None:
        """The error of an output with NaN or Inf in it, where that is checked; what isn't known yet is a doubt."""
        doubt = finite(value) if self._check_finite else made(value)
        if doubt.waits:
            ticket.doubts.append(doubt)
            return None
        return None if doubt.holds() else not_finite(ticket.request_id)


def _call_pipeline(ticket: Ticket, view: Any) -> object:
    ticket.tell("started")
    view.__dict__.update(ticket.helpers)
    kwargs = watch_steps(view, ticket)
    return view(**{**kwargs, **callbacks(kwargs)})


def _stepped(ticket: Ticket) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        ticket.metrics.num_steps, ticket.num_steps = done, total
        ticket.tell("step")

    return tell
