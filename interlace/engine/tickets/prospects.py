"""Requests as the scheduler sees them: paused calls in its own words, and how much work each request still is."""

from collections.abc import Mapping
from dataclasses import replace

from interlace.config import EngineConfig
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.executor import Executor
from interlace.engine.policy.forecast import Forecast
from interlace.engine.policy.line import Waiting
from interlace.engine.policy.pending import ENCODE, Pending, stage_of
from interlace.engine.ticket import Ticket
from interlace.errors import DeadlineExceededError


class Prospects:
    """For one engine."""

    def __init__(
        self, config: EngineConfig, executor: Executor, forecast: Forecast, lanes: Mapping[str, str] | None = None
    ) -> None:
        """`lanes`: of components, where there are several."""
        self._executor, self._forecast, self._shed = executor, forecast, config.shed_hopeless
        self._lanes = lanes or {}
        self._ranks = config.policy != "fifo"

    @property
    def predicting(self) -> bool:
        """Whether anything goes by the work of requests that wait."""
        return self._ranks or self._shed

    def pending(self, ticket: Ticket, call: ModuleCall) -> Pending:
        """A call that a request is paused at."""
        pending = Pending(
            ticket.request_id,
            call.target.label,
            self._executor.signature(call),
            ENCODE if call.prefills else stage_of(call.target.component, call.target.method),
            call.rows,
            call.tokens,
            ticket.order,
            ticket.priority,
            self._executor.shape(call),
            since=ticket.submitted,
            deadline=ticket.deadline,
            places=call.places,
            lane=self._lanes.get(call.target.component, ""),
        )
        return replace(pending, remaining=self.left(ticket, pending)) if self._ranks else pending

    def waiting(self, ticket: Ticket) -> Waiting:
        """A request that has not started."""
        return ticket.waiting(self.left(ticket) if self.predicting else 0.0)

    def left(self, ticket: Ticket, pending: Pending | None = None) -> float:
        """Predicted seconds that a request would still take alone."""
        pending = pending or ticket.pending
        try:
            if pending is None:
                return self._forecast.waiting(ticket.kwargs)
            done = ticket.metrics.num_steps
            return self._forecast.running(ticket.kwargs, pending, done, ticket.num_steps, ticket.num_denoised)
        except (ValueError, OverflowError):  # steps or sizes that are no numbers: the pipeline will say so
            return 0.0

    def lateness(self, ticket: Ticket, now: float) -> DeadlineExceededError | None:
        """The error of a request that is not done by its deadline or, where such are shed, won't be."""
        if ticket.deadline is None:
            return None
        if now > ticket.deadline:
            return DeadlineExceededError(f"request {ticket.request_id} not done after {now - ticket.submitted:.2f} s")
        if self._shed and now + (left := self.left(ticket)) > ticket.deadline:
            return DeadlineExceededError(
                f"request {ticket.request_id} needs about {left:.2f} s more, its timeout ends in "
                f"{max(ticket.deadline - now, 0):.2f} s; allow more time or send fewer requests"
            )
        return None
