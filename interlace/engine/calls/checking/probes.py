"""Calls whose arguments differ where the given ones happen to be equal, so that one check proves all of them.

Else an argument that is equal in all calls so far (guidance of a uniform set, its timesteps) would have to be compared
before every forward, and on a GPU each comparison waits for all that is queued. Knows nothing of running calls.
"""

from collections.abc import Sequence, Set
from typing import Any

import torch

from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import rebuilt
from interlace.engine.calls.outcome import keeps
from interlace.engine.calls.roles import Role

_KEPT = ("adapters", "wears", "state")
_ALTERED = (Role.ROWS, Role.SCALAR, Role.ITEMS, Role.MASK)


def probes(calls: Sequence[ModuleCall], leaves: Set[int]) -> list[ModuleCall]:
    """The calls, all but the first with other values in those `leaves`; none where a forward would change a cache."""
    first = calls[0]
    if not leaves or any(keeps(call) or call.original is not None for call in calls):
        return []
    return [first, *(_altered(call, leaves, number) for number, call in enumerate(calls[1:], 1))]


def _altered(call: ModuleCall, leaves: Set[int], number: int) -> ModuleCall:
    values = [
        _other(value, number) if i in leaves and leaf.role in _ALTERED else value
        for i, (leaf, value) in enumerate(zip(call.layout, call.leaves, strict=True))
    ]
    args, kwargs = rebuilt(call, values)
    made = ModuleCall(call.target, args, kwargs, call.ambient)
    for name in _KEPT:
        setattr(made, name, getattr(call, name))
    return made


def _other(value: Any, number: int) -> Any:
    """Values of the same kind: smaller numbers, or ids and masks moved on by one with a zero at the end."""
    if isinstance(value, list):
        return [_other(one, number) for one in value]
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_floating_point():
        return value * (1 - 0.1 / number)
    if value.ndim < 2:
        return value - value // (9 + number)
    moved = value.roll(1, -1)
    moved[..., -1] = 0
    return moved
