"""What ControlNets and T2I-Adapters add to a denoiser's call, so that calls with and without it share a forward.

What they hand over is added to what the denoiser has; a call without any gets zeros for the forward that it shares.
"""

from collections.abc import Sequence
from typing import Any

import torch

from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.controls.keys import defaults_of
from interlace.engine.calls.rules import CONTROLS


def in_step(calls: Sequence[ModuleCall]) -> bool:
    """Whether all calls have the same arguments, as almost always."""
    first = calls[0].skeleton
    return all(call.skeleton is first or call.skeleton == first for call in calls) and same_controls(calls)


def same_controls(calls: Sequence[ModuleCall]) -> bool:
    return all(call.controls == calls[0].controls for call in calls)


def groups(calls: Sequence[ModuleCall]) -> list[list[int]]:
    """Places of the calls that can be brought into step: those without controls go with the first of their size."""
    found: dict[Any, list[int]] = {}
    for place, call in enumerate(calls):
        if call.controls is not None:
            found.setdefault(call.controls, []).append(place)
    plain = [place for place, call in enumerate(calls) if call.controls is None]
    for place in plain:
        fits = (key for key, others in found.items() if calls[others[0]].lengths == calls[place].lengths)
        found.setdefault(next(fits, None), []).append(place)
    return [sorted(places) for places in found.values()]


def brought_into_step(calls: Sequence[ModuleCall]) -> list[ModuleCall]:
    """The same calls with the same arguments, in one order: zeros for controls, and defaults for what is left out."""
    named = [call.named for call in calls]
    model = next((one for one, call in zip(named, calls, strict=True) if call.controls is not None), named[0])
    names = dict.fromkeys(name for one in (model, *named) for name in one)
    defaults = defaults_of(getattr(type(calls[0].target.module), calls[0].target.method))
    controls = CONTROLS.get(type(calls[0].target.module).__name__, frozenset())
    made = []
    for call, own in zip(calls, named, strict=True):
        filled = {
            name: own[name]
            if own.get(name) is not None
            else _nothing(model.get(name), call.rows)
            if name in controls
            else own.get(name, defaults.get(name))
            for name in names
        }
        one = ModuleCall(call.target, (), filled, call.ambient)
        for kept in ("adapters", "memory", "wears", "state", "scales", "views"):
            setattr(one, kept, getattr(call, kept))
        one.original = call
        made.append(one)
    return made


def _nothing(value: Any, rows: int) -> Any:
    """Zeros in the place of what a ControlNet gave another call; what is no tensor (a switch) as it is there."""
    if isinstance(value, torch.Tensor):
        return value.new_zeros(()).expand(rows, *value.shape[1:])
    if isinstance(value, (list, tuple)):
        return type(value)(_nothing(one, rows) for one in value)
    return value
