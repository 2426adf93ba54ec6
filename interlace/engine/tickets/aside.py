"""Decodes beside other forwards: on a device with streams, a group that decodes runs while the next forward does."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from interlace.engine.calls.fuse import tensors
from interlace.engine.calls.outcome import Outcome
from interlace.engine.device.streams import StreamPair, has_streams
from interlace.engine.policy.memory import MemoryModel
from interlace.engine.policy.pending import DECODE, Pending
from interlace.engine.ticket import Ticket

Schedule = Callable[[Callable[[Pending], bool]], list[Ticket]]  # the next forward of those calls that may be in it


class Aside:
    """For one engine, in its thread; does nothing on a device without streams, or where `wanted()` is false."""

    def __init__(self, device: torch.device, memory: MemoryModel, wanted: Callable[[], bool]) -> None:
        self._device, self._memory, self._wanted = device, memory, wanted

    @cached_property
    def _lanes(self) -> StreamPair | None:
        return StreamPair(self._device) if has_streams(self._device) and self._wanted() else None

    def takes(self, group: Sequence[Ticket]) -> bool:
        """Whether a group is one that decodes, and may do so beside others."""
        return self._lanes is not None and group[0].pending is not None and group[0].pending.stage == DECODE

    def run(
        self,
        group: list[Ticket],
        schedule: Schedule,
        execute: Callable[[list[Ticket]], list[Outcome]],
        resume: Callable[[list[Ticket], list[Outcome]], None],
    ) -> None:
        """Decode, and what else is next beside it; both go on."""
        assert self._lanes is not None
        with self._lanes.queued_aside():
            decoded = execute(group)
        other = schedule(lambda pending: pending.stage != DECODE)
        if other and not self._fit(group, other):
            other = []
        outcomes = execute(other) if other else []
        with self._lanes.continued():
            resume(group, decoded)
        resume(other, outcomes)

    def hand_over(self, value: object) -> None:
        """A request has come to `value`, which its owner may drop whenever he likes."""
        if self._lanes is not None:
            self._lanes.hand_over(tensors(value))

    def _fit(self, *groups: Sequence[Ticket]) -> bool:
        """Whether the forwards of all groups fit the memory budget at one time."""
        if self._memory.budget is None:
            return True
        calls = [[ticket.pending for ticket in group if ticket.pending is not None] for group in groups]
        sizes = [self._memory.needed(own[0].shape, sum(call.rows for call in own)) for own in calls]
        return all(size is not None for size in sizes) and sum(size or 0 for size in sizes) <= self._memory.budget
