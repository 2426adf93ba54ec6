"""`Lists`: which requests that start together run as one call of the pipeline with lists, and what becomes of them.

The first such call of a kind is checked: some of its requests also run alone beside it. Where the two differ, and where
a call with lists fails, its requests run alone from their beginning. Knows nothing of queues and forwards.
"""

import dataclasses
import itertools
import logging
from collections.abc import Collection, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from interlace.config import EngineConfig
from interlace.engine.lists.joined import STEPS, CannotPartError, alike, joined, list_key, parted
from interlace.engine.policy.cost import CostModel
from interlace.engine.statistics import ListFacts
from interlace.engine.ticket import EngineEvent, Ticket

logger = logging.getLogger("interlace.engine")
_MOST = 8  # requests in one call: more would spare nothing more, and cost model and memory choose among smaller ones
_PAYS_BELOW_S = 0.02  # of a request's share of a forward: Python is some 0.4 ms a request and step, a call's the same
_counter = itertools.count()


@dataclass(eq=False)
class ListCall:
    """One call for `members`. `leader` is the ticket that runs it; `checked` also run alone."""

    key: Hashable
    members: list[Ticket]  # by rows
    leader: Ticket
    checked: list[Ticket]
    gone: set[str] = field(default_factory=set)  # members that have an end
    alone: dict[str, Any] = field(default_factory=dict)  # of the checked that are done, their outputs
    parts: list[Any] | None = None  # what the call came to
    failed: str = ""

    @property
    def left(self) -> list[Ticket]:
        """Members that wait for what this call comes to."""
        return [ticket for ticket in self.members if ticket.request_id not in self.gone]


@dataclass(frozen=True)
class Decision:
    """What becomes of a call's members: `outputs` of those that have theirs, `apart` those that start again alone."""

    outputs: list[tuple[Ticket, Any]] = field(default_factory=list)
    apart: list[Ticket] = field(default_factory=list)


class Lists:
    """One engine's calls with lists, and what it knows of kinds of requests: costs, and whether lists are right."""

    def __init__(self, config: EngineConfig, cost: CostModel) -> None:
        self._config, self._cost = config, cost
        self._shapes: dict[Hashable, tuple[str, int]] = {}  # by key: its denoiser's forward, and a request's rows there
        self._proven: dict[Hashable, bool] = {}  # by key: whether texts of several lengths were among those checked
        self._refused: dict[Hashable, str] = {}
        self._calls: dict[str, ListCall] = {}  # that run, by their leader's id
        self._of: dict[str, ListCall] = {}  # by member
        self.num_calls = self.num_requests = 0
        self._on = (
            config.join_equal
            and config.step_execution
            and config.max_batch_rows == "auto"
            and config.max_batch_tokens is None
            and not config.batch_invariant
            and config.verify_fusion != "always"
            and config.cache_type == "none"
            and config.hold_guidance_after == 1
        )

    def stats(self) -> ListFacts:
        """Calls with lists, the requests in them, and why kinds of requests run apart."""
        return {"calls": self.num_calls, "requests": self.num_requests, "apart": sorted(set(self._refused.values()))}

    @property
    def running(self) -> Collection[ListCall]:
        """Calls that are under way."""
        return self._calls.values()

    def learn(self, ticket: Ticket) -> None:
        """A request that runs alone has had its first forward of the denoiser."""
        if self._on and ticket.pending is not None and (key := _key(ticket)) is not None:
            self._shapes.setdefault(key, (ticket.pending.shape, ticket.pending.rows))

    def groups(self, tickets: Sequence[Ticket]) -> list[list[Ticket]]:
        """Requests that start now: those of one list go into one call."""
        if not self._on or len(tickets) < 2:
            return [[ticket] for ticket in tickets]
        equal: dict[Hashable, list[Ticket]] = {}
        for ticket in tickets:
            key = _key(ticket)
            if key is None or key in self._refused or key not in self._shapes:
                equal[ticket.request_id] = [ticket]
            else:
                steps = ticket.kwargs.get(STEPS)
                equal.setdefault((key, steps, ticket.priority, ticket.ambient.key), []).append(ticket)
        found: list[list[Ticket]] = []
        for same in equal.values():
            found += _cut(same, self._most(same)) if len(same) > 1 else [same]
        return found

    def _most(self, tickets: Sequence[Ticket]) -> int:
        """How many of these to put into one call: as many as a forward would take, none where Python hardly counts."""
        if not _compatible(tickets):
            return 1
        shape, rows = self._shapes[_key(tickets[0])]
        taken = self._cost.widest(shape, rows * len(tickets))
        seconds = self._cost.seconds(shape, taken)
        if seconds is None or seconds * rows / taken > _PAYS_BELOW_S:
            return 1
        return min(taken // rows, _MOST)

    def join(self, members: list[Ticket]) -> ListCall:
        """The call of these, to be started: its leader, and those that are checked."""
        first, key = members[0], _key(members[0])
        lengths = [len(str(ticket.kwargs["prompt"])) for ticket in members]
        several = max(lengths) != min(lengths)
        checked: list[Ticket] = []
        if self._config.verify_fusion != "off" and self._proven.get(key) not in (True, several):
            checked = [members[lengths.index(min(lengths))], *([members[lengths.index(max(lengths))]] * several)]
        leader = Ticket(
            f"list {next(_counter)} from {first.request_id}",
            joined([ticket.kwargs for ticket in members]),
            first.ambient.copy(),
            Future(),
            priority=first.priority,
            order=first.order,
            submitted=first.submitted,
            parts=first.parts,
            num_requests=len(members),
        )
        call = ListCall(key, members, leader, checked)
        leader.listener = lambda event: _tell(call, event)
        self._calls[leader.request_id] = call
        for ticket in members:
            self._of[ticket.request_id], ticket.joined = call, ticket not in checked
        self.num_calls += 1
        self.num_requests += len(members)
        return call

    def call_of(self, ticket: Ticket) -> ListCall | None:
        """The call that this ticket leads."""
        return self._calls.get(ticket.request_id)

    def names(self, tickets: Iterable[Ticket]) -> tuple[str, ...]:
        """The requests behind these tickets."""
        calls = [(ticket, self.call_of(ticket)) for ticket in tickets]
        return tuple(name for one, call in calls for name in (_ids(call.left) if call else [one.request_id]))

    def ended(self, call: ListCall, value: object, error: BaseException | None) -> None:
        """What a call with lists came to."""
        self._calls.pop(call.leader.request_id, None)
        if error is None:
            try:
                call.parts = parted(value, len(call.members))
            except CannotPartError as reason:
                error = reason
        if error is not None:
            call.failed = f"a call with lists gave {type(error).__name__}: {error}"

    def leave(self, ticket: Ticket, value: object, error: BaseException | None) -> ListCall | None:
        """A request has its end. The call that it was in, where there was one."""
        call = self._of.pop(ticket.request_id, None)
        if call is not None:
            call.gone.add(ticket.request_id)
            if ticket in call.checked and error is None:
                call.alone[ticket.request_id] = value
        return call

    def decided(self, call: ListCall) -> Decision | None:
        """What its members do now; None while the call, or one that is checked, still runs."""
        running = call.parts is None and not call.failed
        if not call.failed and (running or any(ticket.request_id not in call.gone for ticket in call.checked)):
            return None
        problem = call.failed or self._differing(call)
        left = self._release(call)
        if problem and left:
            self._refused[call.key] = problem
            logger.info("requests with the parameters of %s run apart: %s", call.leader.request_id, problem)
        if problem or (call.checked and not call.alone):  # all that were checked were aborted: nothing is known
            return Decision(apart=left)
        if call.checked:
            self._proven[call.key] = len(call.alone) > 1
        outputs = []
        for ticket in left:
            _follow(ticket, call)
            _take_over_generator(ticket, call)
            outputs.append((ticket, call.parts[call.members.index(ticket)] if call.parts else None))
        return Decision(outputs=outputs)

    def _differing(self, call: ListCall) -> str:
        for index, ticket in enumerate(call.members):
            known = ticket.request_id in call.alone
            if known and call.parts and not alike(call.parts[index], call.alone[ticket.request_id]):
                return "a call with lists and a call alone gave different outputs"
        return ""

    def _release(self, call: ListCall) -> list[Ticket]:
        """The members that still wait, which are in no call any more."""
        for ticket in call.members:
            self._of.pop(ticket.request_id, None)
            ticket.joined = False
        return [ticket for ticket in call.left if ticket not in call.checked]


def _key(ticket: Ticket) -> Hashable | None:
    """None for those that are watched, timed or dressed by themselves."""
    own = (ticket.deadline, ticket.adapters, ticket.helpers or None, ticket.outfit, ticket.pipeline)
    if ticket.hold_guidance_after is not None or ticket.preview_every or any(value is not None for value in own):
        return None
    if ticket.list_key is None:
        key = list_key({name: value for name, value in ticket.kwargs.items() if name != STEPS})
        ticket.list_key = (key,)
    return ticket.list_key[0]


def _compatible(tickets: Sequence[Ticket]) -> bool:
    """Generators of their own, steps that are a number, and the pipeline as it was for the first."""
    generators = {id(ticket.kwargs["generator"]) for ticket in tickets}
    steps = tickets[0].kwargs.get(STEPS)
    first = tickets[0].parts
    return (
        len(generators) == len(tickets)
        and isinstance(steps, int | None)
        and all(_same_parts(first, ticket.parts) for ticket in tickets[1:])
    )


def _same_parts(one: Any, other: Any) -> bool:
    """Parts are kept once for all requests that found them so."""
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(
        own.keys() == other[pipeline].keys() and all(value is other[pipeline][name] for name, value in own.items())
        for pipeline, own in one.items()
    )


def _cut(tickets: list[Ticket], most: int) -> list[list[Ticket]]:
    """Lists of at most so many, as even as can be."""
    if most < 2:
        return [[ticket] for ticket in tickets]
    count = -(-len(tickets) // most)
    return [tickets[i * len(tickets) // count : (i + 1) * len(tickets) // count] for i in range(count)]


def _tell(call: ListCall, event: EngineEvent) -> None:
    """News of the call are news of its members; one whose listener fails is aborted with that."""
    for ticket in call.left:
        if ticket in call.checked or event.kind == "ended":
            continue
        _follow(ticket, call)
        try:
            ticket.tell(event.kind)
        except Exception as error:
            ticket.aborted = error


def _follow(ticket: Ticket, call: ListCall) -> None:
    """A member stands where its call stands."""
    leader = call.leader
    queued, total = ticket.metrics.queue_s, ticket.metrics.total_s
    ticket.metrics = dataclasses.replace(leader.metrics, queue_s=queued, total_s=total)
    ticket.num_steps, ticket.num_rows, ticket.total_rows = leader.num_steps, leader.num_rows, leader.total_rows


def _take_over_generator(ticket: Ticket, call: ListCall) -> None:
    """A member's generator stands where it would stand after a call of its own."""
    used = call.leader.kwargs["generator"][call.members.index(ticket)]
    ticket.kwargs["generator"].set_state(used.get_state())


def _ids(tickets: Iterable[Ticket]) -> list[str]:
    return [ticket.request_id for ticket in tickets]
