"""Several calls with one signature as one call, and comparing outputs. Pure functions on tensors."""

import itertools
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch

from interlace.engine.calls.cached.joined import join, join_masks, join_positions
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.packing.packers import to_strip
from interlace.engine.calls.roles import Leaf, Role
from interlace.engine.calls.tree import flatten, is_atom, reachable, rebuild
from interlace.engine.device.host import on_device


def fuse(calls: Sequence[ModuleCall], order: Sequence[int] = ()) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments of one call whose rows are the rows of `calls`, in their order, or in the given `order` of rows.

    Signatures must be equal.
    """
    columns = zip(calls[0].layout, zip(*(c.leaves for c in calls), strict=True), strict=True)
    joined = [(leaf, _join(leaf, column, calls)) for leaf, column in columns]
    return rebuilt(calls[0], [_ordered(leaf, value, order) if order else value for leaf, value in joined])


def by_parts(calls: Sequence[ModuleCall], parts: int) -> list[int]:
    """An order of all rows: the first of `parts` equal parts of each call's rows, then the second of each, ..."""
    starts = list(itertools.accumulate((call.rows for call in calls), initial=0))
    return [
        start + part * call.rows // parts + i
        for part in range(parts)
        for start, call in zip(starts, calls, strict=False)
        for i in range(call.rows // parts)
    ]


def back_in_order(output: object, order: Sequence[int]) -> object:
    """An output whose rows came in `order`, with the rows of each call together."""
    back = [0] * len(order)
    for place, row in enumerate(order):
        back[row] = place
    leaves: list[Any] = []
    flatten(output, leaves, objects=True)
    moved = [_picked(leaf, 0, back) if _has_rows(leaf, len(order)) else leaf for leaf in leaves]
    return rebuild(output, iter(moved), objects=True)


def _has_rows(leaf: Any, rows: int) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] % rows == 0


def _ordered(leaf: Leaf, value: Any, order: Sequence[int]) -> Any:
    if leaf.role in (Role.SHARED, Role.POSITIONS, Role.PACKED) or value is None or isinstance(value, float):
        return value
    if leaf.role is Role.SCALE:
        return _picked(value, 0, order)
    return [value[i] for i in order] if isinstance(value, list) else _picked(value, leaf.dim, order)


def _picked(tensor: torch.Tensor, dim: int, order: Sequence[int]) -> torch.Tensor:
    """The rows of `tensor` in `order`; several entries a row stay together."""
    multiple = tensor.shape[dim] // len(order)
    entries = [row * multiple + i for row in order for i in range(multiple)]
    return tensor.index_select(dim, on_device(entries, tensor.device))


def rebuilt(call: ModuleCall, leaves: Sequence[object]) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments of `call` with other leaves."""
    left = iter(leaves)
    names = call.target.names[: len(call.args)]
    args = tuple(rebuild(value, left, call.stop) for value in call.args)
    kwargs = {name: rebuild(value, left, call.stop) for name, value in call.kwargs.items() if name not in names}
    return args, kwargs


def _join(leaf: Leaf, column: tuple[Any, ...], calls: Sequence[ModuleCall]) -> Any:
    if leaf.role in (Role.SHARED, Role.POSITIONS):
        return column[0]
    if leaf.role is Role.CACHE:
        return join(calls)
    if leaf.role is Role.CACHE_POSITIONS:
        return join_positions(calls)
    if leaf.role is Role.CACHE_MASK:
        return join_masks(column, calls)
    if leaf.role is Role.SCALE:
        return _join_scales(leaf, column, calls)
    if leaf.role is Role.MASK:
        return _join_masks(column, calls)
    if leaf.padded:
        return torch.cat(pad(column))
    if leaf.patch and len({value.shape[2:] for value in column}) > 1:
        return torch.cat(pad([to_strip(value, leaf.patch) for value in column], -1))
    if leaf.role is Role.ITEMS:
        return [item for items in column for item in items]
    if leaf.role is Role.SCALAR:
        return torch.cat([value.expand(call.rows) for value, call in zip(column, calls, strict=True)])
    return torch.cat(column, dim=leaf.dim)


def pad(values: Sequence[torch.Tensor], dim: int = 1) -> list[torch.Tensor]:
    """Tensors with zeros behind in one dimension, all as long there as the longest: [rows, tokens, ...] in that of
    tokens."""
    longest = max(value.shape[dim] for value in values)
    behind = (0, 0) * (values[0].ndim - 1 - dim % values[0].ndim)
    return [
        value
        if value.shape[dim] == longest
        else torch.nn.functional.pad(value, (*behind, 0, longest - value.shape[dim]))
        for value in values
    ]


def _join_scales(leaf: Leaf, scales: Sequence[float], calls: Sequence[ModuleCall]) -> Any:
    """One number for all, or [rows, 1, ...] numbers with as many dimensions as what they multiply."""
    if len(set(scales)) == 1:
        return scales[0]
    like = next(one for one in calls[0].leaves if isinstance(one, torch.Tensor))
    rows = [scale for scale, call in zip(scales, calls, strict=True) for _ in range(call.rows)]
    return on_device(rows, like.device, like.dtype).reshape(-1, *[1] * (leaf.dim - 1))


def _join_masks(masks: Sequence[torch.Tensor | None], calls: Sequence[ModuleCall]) -> torch.Tensor | None:
    """The masks, padded; None when no call has one and no text is padded."""
    texts = [call.texts for call in calls]
    if all(mask is None for mask in masks) and len(set(texts)) == 1:
        return None
    given = next((mask for mask in masks if mask is not None), None)
    dtype = torch.bool if given is None else given.dtype
    device = next(leaf.device for leaf in calls[0].leaves if isinstance(leaf, torch.Tensor))
    full = [
        torch.ones(call.rows, call.texts.length, dtype=dtype, device=device) if mask is None and call.texts else mask
        for mask, call in zip(masks, calls, strict=True)
    ]
    return torch.cat(pad([mask.to(dtype) for mask in full if mask is not None]))


ALIKE = (Role.SHARED, Role.POSITIONS, Role.CACHE, Role.CACHE_MASK, Role.CACHE_POSITIONS)  # the same in all calls


def differing(calls: Sequence[ModuleCall], proven: Set[int] = frozenset()) -> frozenset[int]:
    """The places of the row-carrying leaves, but for `proven` ones, whose values are not the same in all calls."""
    first = calls[0]
    places = [i for i, leaf in enumerate(first.layout) if leaf.role not in ALIKE and i not in proven]
    return frozenset(i for i in places if any(not same(first.leaves[i], call.leaves[i]) for call in calls[1:]))


_TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def same(one: object, other: object) -> bool:
    """Equal to the last bit."""
    return _compare(one, other, lambda a, b: torch.equal(a, b))


def close(one: object, other: object) -> bool:
    """Equal up to the rounding of the dtype, relative to the largest magnitude; other than floats: equal."""
    return _compare(one, other, _close_tensors)


def _compare(one: Any, other: Any, equal: Callable[[torch.Tensor, torch.Tensor], bool]) -> bool:
    if one is other:
        return True
    leaves: tuple[list[Any], list[Any]] = [], []
    if flatten(one, leaves[0], objects=True) != flatten(other, leaves[1], objects=True):
        return False
    return all(_same_leaf(a, b, equal) for a, b in zip(*leaves, strict=True))


def _same_leaf(a: Any, b: Any, equal: Callable[[torch.Tensor, torch.Tensor], bool]) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype and equal(a, b)
    if is_atom(a) or is_atom(b):
        return bool(a == b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    return type(a) is type(b)


def _close_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype == torch.uint8 and a.numel():  # of pictures: what lies between two bytes may be rounded to either
        return int((a.short() - b.short()).abs().max()) <= 1
    if not a.is_floating_point() or a.numel() == 0:
        return torch.equal(a, b)
    scale = torch.nan_to_num(b.float()).abs().max().clamp_min(1e-6)
    difference = (a.float() - b.float()).abs()
    difference = torch.where(a == b, 0.0, difference)  # equal infinities
    both_nan = a.isnan() & b.isnan()
    return bool((torch.where(both_nan, 0.0, difference) <= scale * _TOLERANCE.get(a.dtype, 5e-2)).all())


def tensors(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in a nested value, which may hold itself."""
    return (one for one in reachable(value) if isinstance(one, torch.Tensor))
