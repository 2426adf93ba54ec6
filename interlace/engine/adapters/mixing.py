"""A forward in which every row has adapters of its own: what they add to each adapted layer's output is mixed.

Punica (arXiv 2310.18547) and S-LoRA (2311.03285) mix language models' adapters so. How one layer does it is its
kind's affair (`kinds`).
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from interlace.engine.adapters.kinds import MixedLayer, MixedRows, kind_of
from interlace.engine.adapters.layers import AdapterLayers, Selection, adapters_of

_MAX_STACKS = 2  # unions of adapters whose mixed layers are kept
_WASTE = 3  # times the sizes needed, that a kept union may have to be used in place of a new one


class Mixer:
    """Mixed forwards of one module."""

    def __init__(self, layers: AdapterLayers) -> None:
        self._layers = layers
        self._stacks: OrderedDict[frozenset[str], list[MixedLayer]] = OrderedDict()

    @contextmanager
    def mixed(self, selections: Sequence[Selection], rows: Sequence[int]) -> Iterator[None]:
        """Within, the module's forward is of `rows[i]` rows with `selections[i]`, one behind the other.

        A layer whose input's first dimension is no multiple of the rows raises `UnmixableError`.
        """
        used = frozenset(name for selection in selections for name, _ in selection)
        stacks = self._stacked(used)
        names = sorted({name for stack in stacks for name in stack.names})
        of_row = [dict(selection) for selection, count in zip(selections, rows, strict=True) for _ in range(count)]
        weights = {name: torch.tensor([own.get(name, 0.0) for own in of_row]) for name in names}
        together = MixedRows(weights, len(of_row))
        with self._layers.told(tuple((name, 1.0) for name in names)):
            before = [vars(stack.layer).get("forward") for stack in stacks]  # a hook's, in most cases none
            for stack in stacks:
                stack.layer.__dict__["forward"] = partial(_forward, stack, together)
            try:
                yield
            finally:
                for stack, own in zip(stacks, before, strict=True):
                    del stack.layer.__dict__["forward"]
                    if own is not None:
                        stack.layer.__dict__["forward"] = own

    def _stacked(self, used: frozenset[str]) -> list[MixedLayer]:
        """Layers with the adapters in `used`; those of more adapters serve too, where they are not much larger."""
        for kept, stacks in self._stacks.items():
            if used <= kept and _size(stacks) <= _WASTE * _size(stacks, used):
                self._stacks.move_to_end(kept)
                return stacks
        stacks = [made for layer in self._layers.layers if (made := _mixed(layer, sorted(used))) is not None]
        self._stacks[used] = stacks
        if len(self._stacks) > _MAX_STACKS:
            self._stacks.popitem(last=False)
        return stacks


def _size(stacks: Sequence[MixedLayer], used: frozenset[str] | None = None) -> int:
    pairs = (pair for stack in stacks for pair in zip(stack.names, stack.sizes, strict=True))
    return sum(size for name, size in pairs if used is None or name in used)


def _mixed(layer: BaseTunerLayer, names: Sequence[str]) -> MixedLayer | None:
    kind, held = kind_of(layer), adapters_of(layer)
    own = [name for name in names if name in held]
    return kind.mixed(layer, own) if kind is not None and own else None


def _forward(stack: MixedLayer, rows: MixedRows, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    result: torch.Tensor = stack.layer.base_layer(x, *args, **kwargs)
    return result + stack.delta(x, rows).to(result.dtype)
