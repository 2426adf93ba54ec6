"""A request's guidance, held: late in its schedule the call without the prompt, or its rows, isn't computed any more.

A step of classifier-free guidance asks a denoiser about the same latents several times: in calls of their own, or in
rows of one call. Late in the schedule only one of them is computed; the others are it plus the difference that they
had when they last ran. Nothing here knows which one has the prompt, nor how a pipeline combines them: it gets one true
answer and the last true difference. Knows only the request's own calls. Lossy; off by default.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from interlace.engine.caches.step import MOST_LANES, conditioning, copied, latents_of
from interlace.engine.calls.cached.rows import row_caches
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import rebuilt
from interlace.engine.calls.roles import Role
from interlace.engine.calls.split import CannotSplitError, split
from interlace.engine.calls.tree import flatten, rebuild
from interlace.engine.device.waits import DeviceWait
from interlace.python.recent import Recent

_Difference = list[torch.Tensor | None]  # of each leaf of an output


@dataclass
class _Point:
    """The first answer of a module about these latents at this time."""

    latents: torch.Tensor
    times: list[torch.Tensor]
    lane: object
    output: Any
    computed: bool


@dataclass
class _Halved:
    """The call with two sets of rows that a call of one set stands for."""

    whole: ModuleCall
    half: ModuleCall


class HeldGuidance:
    """`after` is the share of the steps, 0 to 1, from which on differences are held."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._points: dict[str, _Point] = {}  # by module
        self._differences: Recent[Hashable, _Difference] = Recent(MOST_LANES)  # by conditioning
        self._halved: _Halved | None = None

    def narrowed(self, call: ModuleCall, step: int, num_steps: int) -> ModuleCall:
        """The call to run in the place of `call`: late, of two sets of rows only the second."""
        self._halved = None
        if call.unfusable or row_caches(call.named) or not self._is_late(step, num_steps):
            return call
        if self._differences.get(conditioning(call)) and is_doubled(call):
            half = halves(call)[1]
            if not half.unfusable:
                self._halved = _Halved(call, half)
                return half
        return call

    def answer(self, call: ModuleCall, step: int, num_steps: int) -> object | None:
        """The output of a call about latents that were already asked about; None where it has to run."""
        point = self._points.get(call.target.label)
        if call.unfusable or not self._is_late(step, num_steps) or point is None or not _is_at(call, point):
            return None
        difference = self._differences.get(conditioning(call))
        return None if difference is None else _plus(point.output, difference)

    def deliver(self, call: ModuleCall, output: object, *, computed: bool) -> object:
        """What the pipeline gets for a call that came to `output`: the missing rows added. Learns from what ran."""
        if self._halved is not None and self._halved.half is call:
            difference = self._differences[conditioning(self._halved.whole)]
            return _joined(_plus(output, difference), output, self._halved.whole)
        if not call.unfusable and latents_of(call) is not None:
            self._learn(call, output, computed)
        return output

    def _is_late(self, step: int, num_steps: int) -> bool:
        return num_steps > 0 and step >= self._after * num_steps

    def _learn(self, call: ModuleCall, output: Any, computed: bool) -> None:
        lane, point = conditioning(call), self._points.get(call.target.label)
        if point is not None and point.lane != lane and _is_at(call, point):
            if computed and point.computed:
                self._differences[lane] = _minus(output, point.output)
            return
        latents = latents_of(call)
        assert latents is not None
        self._points[call.target.label] = _Point(latents.clone(), _times(call), lane, copied(output), computed)
        if computed and is_doubled(call):
            try:
                first, second = split(output, halves(call))
            except CannotSplitError:
                return
            self._differences[lane] = _minus(first, second)


def is_doubled(call: ModuleCall) -> bool:
    """Whether a call asks twice about the same latents: its second half of rows has the first one's."""
    latents = None if call.unfusable or call.rows % 2 else latents_of(call)
    if latents is None or any(leaf.role is Role.PACKED for leaf in call.layout):
        return False
    first, second = latents.chunk(2)
    with DeviceWait("held guidance"):
        return torch.equal(first, second)


def halves(call: ModuleCall) -> list[ModuleCall]:
    """A call of 2n rows as two of n rows."""
    middle = call.rows // 2
    return [_rows_of(call, 0, middle), _rows_of(call, middle, call.rows)]


def _rows_of(call: ModuleCall, start: int, stop: int) -> ModuleCall:
    leaves: list[Any] = []
    for leaf, value in zip(call.layout, call.leaves, strict=True):
        if leaf.role is Role.ROWS:
            value = value.narrow(leaf.dim, start * leaf.multiple, (stop - start) * leaf.multiple)
        by_row = leaf.role in (Role.ITEMS, Role.MASK) or (leaf.role is Role.SCALAR and value.ndim)
        if by_row and value is not None and len(value) == call.rows:
            value = value[start:stop]
        leaves.append(value)
    args, kwargs = rebuilt(call, leaves)
    half = ModuleCall(call.target, args, kwargs, call.ambient)
    half.adapters = call.adapters
    return half


def _times(call: ModuleCall) -> list[torch.Tensor]:
    """Copies of the timestep and whatever else is one number for all rows."""
    pairs = zip(call.layout, call.leaves, strict=True)
    return [value.clone() for leaf, value in pairs if leaf.role is Role.SCALAR]


def _is_at(call: ModuleCall, point: _Point) -> bool:
    latents, times = latents_of(call), _times(call)
    with DeviceWait("held guidance"):
        same_times = len(times) == len(point.times) and all(map(torch.equal, times, point.times))
        return same_times and latents is not None and torch.equal(latents, point.latents)


def _leaves(output: Any) -> list[Any]:
    leaves: list[Any] = []
    flatten(output, leaves, objects=True)
    return leaves


def _minus(one: Any, other: Any) -> _Difference:
    pairs = zip(_leaves(one), _leaves(other), strict=True)
    return [a - b if isinstance(a, torch.Tensor) and a.is_floating_point() else None for a, b in pairs]


def _plus(output: Any, difference: _Difference) -> Any:
    pairs = zip(_leaves(output), difference, strict=True)
    return rebuild(output, iter([a if d is None else a + d for a, d in pairs]), objects=True)


def _joined(first: Any, second: Any, call: ModuleCall) -> Any:
    """Outputs of a call's halves as the output of the call."""
    middle = call.rows // 2

    def is_items(value: Any) -> bool:
        return type(value) is list and len(value) == middle and any(leaf.role is Role.ITEMS for leaf in call.layout)

    pairs: tuple[Sequence[Any], Sequence[Any]] = ([], [])
    flatten(first, pairs[0], is_items, objects=True)  # type: ignore[arg-type]
    flatten(second, pairs[1], is_items, objects=True)  # type: ignore[arg-type]
    joined = (_both(a, b) for a, b in zip(*pairs, strict=True))
    return rebuild(first, joined, is_items, objects=True)


def _both(first: Any, second: Any) -> Any:
    if isinstance(first, torch.Tensor) and first.ndim:
        return torch.cat([first, second])
    return [*first, *second] if isinstance(first, list) else first
