"""A request's own step cache: denoiser calls that are predicted to change little are answered with the last output.

The rule is EasyCache's (Zhou et al. 2025, arXiv 2507.02860) with the output itself held: how much the output changes
with the input is learned from the calls that ran; predicted changes add up until they reach the threshold. Only the
request's own inputs and outputs count, so its batch mates can't change its picture. Lossy; off by default.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.digest import digest
from interlace.engine.calls.roles import Role
from interlace.engine.calls.rules import FROM_LATENTS
from interlace.engine.calls.tree import flatten, is_atom, rebuild
from interlace.engine.device.waits import DeviceWait
from interlace.python.recent import Recent

_WARM_UP, _LAST = 3, 1  # steps at either end that always run
MOST_LANES = 8  # a conditioning that changes with every step (a ControlNet's) would gather without end


@dataclass
class _History:
    """Calls of one module with one conditioning: those with and without the prompt are apart."""

    computed_input: torch.Tensor
    last_input: torch.Tensor
    output: Any
    flow: torch.Tensor  # the output's tensor
    rate: float = 0.0  # change of output per change of input
    drift: float = 0.0  # predicted change of the output since it was computed, relative
    num_computed: int = 1


class StepCache:
    """One request's cache. `threshold` is the relative change of the output that may be skipped over."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lanes: Recent[Hashable, _History] = Recent(MOST_LANES)

    def lookup(self, call: ModuleCall, step: int, num_steps: int) -> object | None:
        """The answer to a call that need not run; None where it must. `step` of `num_steps` are behind us."""
        lane = self._lanes.get(conditioning(call)) if not call.unfusable else None
        if lane is None:
            return None
        latents = latents_of(call)
        if latents is None or latents.shape != lane.last_input.shape:
            return None
        latents = latents.clone()
        moved = _size(latents - lane.last_input)
        lane.last_input = latents
        lane.drift += lane.rate * moved / max(_size(lane.flow), 1e-12)
        at_an_end = step < _WARM_UP or not num_steps or step >= num_steps - _LAST
        if at_an_end or lane.num_computed < 2 or not lane.drift < self._threshold:
            return None
        return copied(lane.output)

    def store(self, call: ModuleCall, output: object) -> None:
        """What a call that ran came to."""
        flow = _flow(output)
        latents = None if call.unfusable else latents_of(call)
        if flow is None or latents is None:
            return
        latents = latents.clone()
        key = conditioning(call)
        before = self._lanes.pop(key, None)
        lane = _History(latents, latents, copied(output), flow.clone())
        if before is not None and before.flow.shape == flow.shape:
            moved = _size(latents - before.computed_input)
            lane.rate = _size(flow - before.flow) / moved if moved else before.rate
            lane.num_computed = before.num_computed + (moved > 0)  # the same latents again teach nothing
        self._lanes[key] = lane


def latents_of(call: ModuleCall) -> torch.Tensor | None:
    """The denoiser's latents: the first argument with rows; those that come as a list in one line."""
    for leaf, value in zip(call.layout, call.leaves, strict=True):
        if leaf.role is Role.ROWS:
            return value if isinstance(value, torch.Tensor) else None
        if leaf.role is Role.ITEMS:
            return _in_line(value)
    return None


def _in_line(items: Iterable[torch.Tensor | None]) -> torch.Tensor | None:
    parts = [item.flatten() for item in items if item is not None]
    return torch.cat(parts) if parts else None


def _flow(output: Any) -> torch.Tensor | None:
    """The prediction: an output's first tensor, or all of the list that holds one a row."""
    leaves: list[Any] = []
    flatten(output, leaves, lambda value: type(value) is list, objects=True)
    for leaf in leaves:
        if isinstance(leaf, list) and leaf and all(isinstance(item, torch.Tensor) for item in leaf):
            return _in_line(leaf)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf
    return None


def copied(output: object) -> object:
    """The pipeline may change what it gets in place."""
    leaves: list[Any] = []
    flatten(output, leaves, objects=True)
    copies = (leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
    return rebuild(output, copies, objects=True)


def conditioning(call: ModuleCall) -> Hashable:
    """Module and conditioning: every argument but the latents, what is made of them, and what counts time."""
    parts: list[Hashable] = [call.target.label]
    seen_latents = False
    for leaf, value in zip(call.layout, call.leaves, strict=True):
        if leaf.role in (Role.ROWS, Role.ITEMS) and not seen_latents:
            seen_latents = True
        elif leaf.role is Role.SCALAR or leaf.name in FROM_LATENTS:
            continue
        elif isinstance(value, torch.Tensor):
            parts.append((leaf.name, *_content(value)))
        elif leaf.role is Role.ITEMS:
            parts.append((leaf.name, tuple(item if item is None else _content(item) for item in value)))
        elif is_atom(value):
            parts.append((leaf.name, value))
    return tuple(parts)


def _content(tensor: torch.Tensor) -> tuple[torch.Size, bytes]:
    return tensor.shape, digest(tensor, "conditioning")


def _size(tensor: torch.Tensor) -> float:
    with DeviceWait("step cache"):
        return float(tensor.float().abs().mean())
