"""Key-value caches of several texts as one, so that texts of different lengths share a language model's forward.

Each call keeps its own transformers cache; a shared forward gets a `JoinedCache`, which writes every row's new keys
behind that row's own and shows them padded to the longest. Nothing is kept of a forward that fails. Knows nothing of
what a language model is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicSlidingWindowLayer

from interlace.engine.calls.cached.rows import KeptRows, row_caches
from interlace.engine.calls.cached.text import CachedText, Kept, attention_of, length
from interlace.engine.calls.call import ModuleCall
from interlace.engine.device.host import on_device

_ROOM = 64  # positions that a buffer grows by


@dataclass(eq=False, slots=True)
class _Buffer:
    """Keys and values of one layer for all rows of a group: [rows, heads, capacity, channels]."""

    keys: Tensor
    values: Tensor


@dataclass(eq=False, slots=True)
class _RowShare:
    """Where a cache's rows lie in the buffers of the last forward that it shared."""

    buffers: "list[_Buffer | None]"
    first: int
    keys: list[Tensor]  # what its layers held then: others mean that it ran alone since


class JoinedCache(Cache):
    """The caches of `owners` as one, for one forward. `rows[i]` are those of owner i; `commit` makes it last."""

    def __init__(self, owners: Sequence[Cache], rows: Sequence[int]) -> None:
        super().__init__(layers=[])
        self.owners, self.rows = list(owners), list(rows)
        self.lengths = [length(owner) for owner in owners]
        self._firsts = [sum(rows[:i]) for i in range(len(rows))]
        self._buffers = self._shared_buffers()
        self._new: list[list[tuple[Tensor, Tensor]]] = []  # by layer, by owner

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self.lengths)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> object:
        """Keys and values [rows, heads, longest, channels]; beyond a row's own length they mean nothing."""
        if layer_idx != len(self._new):
            raise NotImplementedError("layers that share their keys")
        num_new = key_states.shape[-2]
        longest = max(self.lengths) + num_new
        buffer = self._buffer(layer_idx, key_states, longest)
        new = []
        for i, first in enumerate(self._firsts):
            rows, start = slice(first, first + self.rows[i]), self.lengths[i]
            buffer.keys[rows, :, start : start + num_new] = key_states[rows]
            buffer.values[rows, :, start : start + num_new] = value_states[rows]
            whole = slice(0, start + num_new)
            new.append((buffer.keys[rows, :, whole], buffer.values[rows, :, whole]))
        self._new.append(new)
        return buffer.keys[:, :, :longest], buffer.values[:, :, :longest]

    def commit(self) -> None:
        """Every owner holds what the forward brought it."""
        for index, new in enumerate(self._new):
            for owner, before, (keys, values) in zip(self.owners, self.lengths, new, strict=True):
                layer = _layer(owner, index)
                if not layer.is_initialized:
                    layer.lazy_initialization(keys, values)
                if isinstance(layer, DynamicSlidingWindowLayer):
                    layer.cumulative_length += keys.shape[-2] - before
                layer.keys, layer.values = keys, values
        for i, owner in enumerate(self.owners):
            held = [new[i][0] for new in self._new]
            owner.interlace_share = _RowShare(self._buffers, self._firsts[i], held)

    def _shared_buffers(self) -> "list[_Buffer | None]":
        """The buffers of the last forward, where these same rows shared it and nobody ran alone since."""
        shares = [getattr(owner, "interlace_share", None) for owner in self.owners]
        first = shares[0]
        if first is None:
            return []
        for owner, share, place in zip(self.owners, shares, self._firsts, strict=True):
            if share is None or share.buffers is not first.buffers or share.first != place:
                return []
            if any(layer.keys is not keys for layer, keys in zip(owner.layers, share.keys, strict=True)):
                return []
        buffers: list[_Buffer | None] = first.buffers
        whole = buffers[0] is not None and len(buffers[0].keys) == sum(self.rows)
        return buffers if whole else []

    def _buffer(self, index: int, like: Tensor, longest: int) -> _Buffer:
        known = self._buffers[index] if index < len(self._buffers) else None
        if known is not None and known.keys.shape[-2] >= longest:
            return known
        capacity = -(-(longest + 1) // _ROOM) * _ROOM
        shape = (*like.shape[:2], capacity, like.shape[-1])
        made = _Buffer(like.new_zeros(shape), like.new_zeros(shape))
        for owner, first, rows, held in zip(self.owners, self._firsts, self.rows, self.lengths, strict=True):
            if held:
                layer = owner.layers[index]
                made.keys[first : first + rows, :, :held] = layer.keys
                made.values[first : first + rows, :, :held] = layer.values
        if index >= len(self._buffers):
            self._buffers = [*self._buffers, made]
        else:
            self._buffers = [*self._buffers[:index], made, *self._buffers[index + 1 :]]
        return made


def _layer(cache: Cache, index: int) -> Any:
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    return cache.layers[index]


def joined_mask(
    masks: Sequence[Tensor | None],
    rows: Sequence[int],
    lengths: Sequence[int],
    num_new: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Which keys each new position sees, [rows, 1, new, longest]: its own row's up to itself, but for masked ones.

    `masks` are those of the calls, [rows, length + new] or None. Boolean, or a float to add.
    """
    longest = max(lengths) + num_new
    keys = torch.arange(longest, device=device)
    own = on_device([n for n, count in zip(lengths, rows, strict=True) for _ in range(count)], device)
    last = own[:, None] + torch.arange(num_new, device=device)  # [rows, new]
    seen = keys <= last[..., None]
    if any(mask is not None for mask in masks):
        given = torch.ones(len(own), longest, dtype=torch.bool, device=device)
        first = 0
        for mask, count in zip(masks, rows, strict=True):
            if mask is not None:
                given[first : first + count, : mask.shape[1]] = mask.to(torch.bool)
            first += count
        seen = seen & given[:, None]
    seen = seen[:, None]
    if dtype is torch.bool:
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)


def join(calls: Sequence[ModuleCall]) -> JoinedCache:
    """The caches of calls with equal signatures, as one."""
    owners = [next(value for value in call.leaves if isinstance(value, Cache)) for call in calls]
    return JoinedCache(owners, [call.rows for call in calls])


def join_masks(masks: Sequence[Tensor | None], calls: Sequence[ModuleCall]) -> Tensor:
    """The mask for a forward of `calls` with their joined cache."""
    module, like = calls[0].target.module, next(value for value in calls[0].leaves if isinstance(value, Tensor))
    texts = [CachedText.of(module, call.named) for call in calls]
    lengths = [length(text.cache) for text in texts if text is not None]
    new = next(text.num_new for text in texts if text is not None)
    like = next((v for v in calls[0].leaves if isinstance(v, Tensor) and v.is_floating_point()), like)
    dtype = like.dtype if like.is_floating_point() else next(module.parameters()).dtype
    rows = [call.rows for call in calls]
    return joined_mask(masks, rows, lengths, new, like.device, dtype if attention_of(module) == "eager" else torch.bool)


def join_positions(calls: Sequence[ModuleCall]) -> Tensor:
    """Where the new tokens of each row stand, [rows, new]: behind what the row's cache holds."""
    starts, new = [], 0
    for call in calls:
        text = CachedText.of(call.target.module, call.named)
        assert text is not None
        starts += [length(text.cache)] * call.rows
        new = text.num_new
    device = next(value for value in calls[0].leaves if isinstance(value, Tensor)).device
    return on_device(starts, device)[:, None] + torch.arange(new, device=device)


def keep(call: "ModuleCall") -> list[Kept | KeptRows]:
    """What a call's forward would change and a second one must find as it was."""
    caches = [Kept(value) for value in call.leaves if isinstance(value, Cache)]
    return [*caches, *(KeptRows(cache) for cache in row_caches(call.named).values())]
