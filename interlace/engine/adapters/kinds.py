"""Kinds of adapter layers whose adapters may be mixed row by row in one forward, and how each kind does it.

A new one is a line in `KINDS`. Layers of other kinds are right, too: requests with different ones of their adapters
take forwards of their own.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from interlace.engine.device.host import sent

_Conv = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d
_KINDS_OF_LAYERS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


class UnmixableError(Exception):
    """A layer got a tensor whose rows can't be told apart."""


@dataclass
class MixedRows:
    """The rows of one forward: how many, and each one's weight of each adapter."""

    weights: dict[str, torch.Tensor]  # adapter -> [rows], float32
    count: int
    memo: dict[Hashable, torch.Tensor] = field(default_factory=dict)  # what layers make of it, once a forward

    def each(self, x: torch.Tensor) -> int:
        """How many entries of `x` a row has. Raises `UnmixableError` where they don't come out even."""
        each, left = divmod(x.shape[0], self.count)
        if left or not each:
            raise UnmixableError(f"{x.shape[0]} entries for {self.count} rows")
        return each

    def column(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The weights of one adapter, [entries of x, 1, ...], to be multiplied with what it adds for each of them."""
        column = sent(self.weights[name].repeat_interleave(self.each(x)).to(x.dtype), x.device)
        return column.reshape(-1, *(1,) * (x.ndim - 1))


class MixedLayer(Protocol):
    """One layer's adapters in a forward whose rows have different ones."""

    layer: BaseTunerLayer
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # of each: a larger collection serves for a smaller one, unless it is much larger

    def delta(self, x: torch.Tensor, rows: MixedRows) -> torch.Tensor:
        """What the adapters add to the base layer's output for `x`, each row's own."""


@dataclass(frozen=True)
class AdapterKind:
    """`mixable(layer, name)`: whether this adapter of the layer may be mixed; `mixed(layer, names)` does it."""

    mixable: Callable[[BaseTunerLayer, str], bool]
    mixed: Callable[[BaseTunerLayer, Sequence[str]], MixedLayer]


class StackedLora:
    """LoRA, the matrices of all adapters one behind the other: `((x A^T) * s[row]) B^T`."""

    def __init__(self, layer: LoraLayer, names: Sequence[str]) -> None:
        downs, ups = [layer.lora_A[name] for name in names], [layer.lora_B[name] for name in names]
        self.layer, self.names = layer, tuple(names)
        self.sizes: tuple[int, ...] = tuple(down.weight.shape[0] for down in downs)  # ranks
        self._down = torch.cat([down.weight.detach() for down in downs])  # [ranks, in, ...]
        self._up = torch.cat([up.weight.detach() for up in ups], dim=1)  # [out, ranks, ...]
        self._conv: _Conv | None = None if isinstance(downs[0], torch.nn.Linear) else downs[0]

    def delta(self, x: torch.Tensor, rows: MixedRows) -> torch.Tensor:
        """As `MixedLayer.delta`."""
        scales, x = self._scales(x, rows), x.to(self._down.dtype)
        if self._conv is None:
            return F.linear(F.linear(x, self._down) * scales, self._up)
        convolve: Callable[..., torch.Tensor] = (F.conv1d, F.conv2d, F.conv3d)[self._down.ndim - 3]
        hidden = convolve(x, self._down, None, self._conv.stride, self._conv.padding, self._conv.dilation)
        return convolve(hidden * scales, self._up)

    def _scales(self, x: torch.Tensor, rows: MixedRows) -> torch.Tensor:
        """[entries of x, 1, ..., ranks] for a linear layer, [entries of x, ranks, 1, ...] for a convolution."""
        each, linear = rows.each(x), self._conv is None
        own = tuple(self.layer.scaling[name] for name in self.names)  # the call's own scale may be in them
        key = self.names, self.sizes, own, each, x.ndim, linear, self._down.dtype, self._down.device
        if key not in rows.memo:
            columns = [
                (rows.weights[name] * scale)[:, None].expand(-1, rank)
                for name, rank, scale in zip(self.names, self.sizes, own, strict=True)
            ]
            table = torch.cat(columns, dim=1).repeat_interleave(each, dim=0)
            places = (1,) * (x.ndim - 2)
            shape = (len(table), *places, -1) if linear else (len(table), -1, *places)
            rows.memo[key] = sent(table.to(self._down.dtype), self._down.device).reshape(shape)
        return rows.memo[key]


def _is_plain(layer: LoraLayer, name: str) -> bool:
    """A pair of matrices, or of convolutions in one group, and nothing else: no DoRA, bias or embedding."""
    if layer.merged or name not in layer.lora_A:
        return False
    one, other = layer.lora_A[name], layer.lora_B[name]
    if type(one) not in _KINDS_OF_LAYERS or type(one) is not type(other):
        return False
    if one.bias is not None or other.bias is not None or name in layer.lora_variant or layer.use_dora.get(name, False):
        return False
    drops = not isinstance(layer.lora_dropout[name], torch.nn.Identity) and layer.training
    return not drops and getattr(one, "groups", 1) == 1 and getattr(one, "padding_mode", "zeros") == "zeros"


KINDS: dict[type[BaseTunerLayer], AdapterKind] = {LoraLayer: AdapterKind(_is_plain, StackedLora)}


def kind_of(layer: BaseTunerLayer) -> AdapterKind | None:
    """How a layer's adapters mix; None for one of a kind that doesn't."""
    return next((kind for cls, kind in KINDS.items() if isinstance(layer, cls)), None)
