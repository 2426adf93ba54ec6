"""Several calls with one signature as one call, and one output as one output a call. Pure functions on tensors."""

import itertools
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch

from interlace.engine.call import ModuleCall
from interlace.engine.roles import Leaf, Role
from interlace.engine.tree import flatten, is_atom, rebuild
from interlace.models.packers import PACKINGS, from_strip


class CannotSplitError(Exception):
    """A fused output in which no row dimension can be found."""


def fuse(calls: Sequence[ModuleCall]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one call whose rows are the rows of `calls`, in their order. Signatures must be equal."""
    columns = zip(calls[0].layout, zip(*(c.leaves for c in calls), strict=True), strict=True)
    return rebuilt(calls[0], [_join(leaf, column, calls) for leaf, column in columns])


def rebuilt(call: ModuleCall, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of `call` with other leaves."""
    left = iter(leaves)
    names = call.target.names[: len(call.args)]
    args = tuple(rebuild(value, left, call.stop) for value in call.args)
    kwargs = {name: rebuild(value, left, call.stop) for name, value in call.kwargs.items() if name not in names}
    return args, kwargs


def _join(leaf: Leaf, column: tuple[Any, ...], calls: Sequence[ModuleCall]) -> Any:
    if leaf.role in (Role.SHARED, Role.POSITIONS):
        return column[0]
    if leaf.role is Role.MASK:
        return _join_masks(column, calls)
    if leaf.padded:
        return torch.cat(pad(column))
    if leaf.patch and len({value.shape[2:] for value in column}) > 1:
        return _strip(column, leaf.patch)
    if leaf.role is Role.ITEMS:
        return [item for items in column for item in items]
    if leaf.role is Role.SCALAR:
        return torch.cat([value.expand(call.rows) for value, call in zip(column, calls, strict=True)])
    return torch.cat(column, dim=leaf.dim)


def pad(texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """[rows, tokens, ...] tensors with zeros behind, all as long as the longest."""
    longest = max(text.shape[1] for text in texts)
    return [
        text
        if text.shape[1] == longest
        else torch.nn.functional.pad(text, (0, 0) * (text.ndim - 2) + (0, longest - text.shape[1]))
        for text in texts
    ]


def _strip(latents: Sequence[torch.Tensor], patch: int) -> torch.Tensor:
    """The shape of latents whose patches lie in one line, as many as the largest has: pos_embed knows the content."""
    rows = sum(len(value) for value in latents)
    longest = max(value.shape[2] * value.shape[3] // patch**2 for value in latents)
    return latents[0].new_zeros(rows, latents[0].shape[1], patch, patch * longest)


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


def differing(calls: Sequence[ModuleCall], proven: Set[int] = frozenset()) -> frozenset[int]:
    """The places of the row-carrying leaves, but for `proven` ones, whose values are not the same in all calls."""
    first = calls[0]
    places = [
        i for i, leaf in enumerate(first.layout) if leaf.role not in (Role.SHARED, Role.POSITIONS) and i not in proven
    ]
    return frozenset(i for i in places if any(not same(first.leaves[i], call.leaves[i]) for call in calls[1:]))


def split(output: Any, calls: Sequence[ModuleCall]) -> list[Any]:
    """One output a call: the rows that are its own. Raises `CannotSplitError` where a tensor has no row dimension."""
    splitter = _Splitter(calls)
    leaves: list[Any] = []
    flatten(output, leaves, splitter.stop, objects=True)
    columns = [splitter.split(leaf) for leaf in leaves]
    return [rebuild(output, (column[i] for column in columns), splitter.stop, objects=True) for i in range(len(calls))]


def packed(calls: Sequence[ModuleCall]) -> bool:
    """Whether the calls differ in where their image tokens are, so that each row has its own length and positions."""
    first = calls[0]
    return type(first.target.module).__name__ in PACKINGS and any(call.places != first.places for call in calls[1:])


def _grids(call: ModuleCall) -> list[tuple[int, int, int]]:
    """Patch side, height and width of whole latents."""
    pairs = zip(call.layout, call.leaves, strict=True)
    return [(leaf.patch, value.shape[2], value.shape[3]) for leaf, value in pairs if leaf.patch]


class _Splitter:
    def __init__(self, calls: Sequence[ModuleCall]) -> None:
        self.rows = [call.rows for call in calls]
        self.total = sum(self.rows)
        self.has_items = any(leaf.role is Role.ITEMS for leaf in calls[0].layout)
        texts = [call.texts for call in calls if call.texts is not None and call.texts.name == "input_ids"]
        self.lengths = [text.length for text in texts]  # of encoded texts: the outputs are as long
        self.grids: list[tuple[int, int, int]] = []  # of latents that came as strips
        if packed(calls):
            packing = PACKINGS[type(calls[0].target.module).__name__]
            self.grids = [grid for call in calls for grid in _grids(call)]
            self.lengths = [] if self.grids else [call.named[packing.tokens].shape[1] for call in calls]

    def stop(self, value: Any) -> bool:
        return self.has_items and type(value) is list and len(value) == self.total

    def split(self, leaf: Any) -> Sequence[Any]:
        if isinstance(leaf, list):
            bounds = np.cumsum([0, *self.rows])
            return [leaf[a:b] for a, b in itertools.pairwise(bounds)]
        if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0:
            return [leaf] * len(self.rows)
        if leaf.shape[0] % self.total:
            raise CannotSplitError(f"an output of shape {tuple(leaf.shape)} has no dimension of {self.total} rows")
        multiple = leaf.shape[0] // self.total
        parts = leaf.split([n * multiple for n in self.rows])
        if self.grids:
            return [from_strip(part, *grid) for part, grid in zip(parts, self.grids, strict=True)]
        if len(set(self.lengths)) < 2:
            return parts
        return [_trim(part, max(self.lengths), length) for part, length in zip(parts, self.lengths, strict=True)]


def _trim(part: torch.Tensor, padded: int, length: int) -> torch.Tensor:
    """Cut the text dimension of [rows, tokens(, channels)] or [rows, heads, tokens, channels] to `length`."""
    for dim in range(1, max(part.ndim - 1, 2)):
        if part.ndim > dim and part.shape[dim] == padded:
            part = part.narrow(dim, 0, length)
    return part


_TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit."""
    return _compare(one, other, lambda a, b: torch.equal(a, b))


def close(one: Any, other: Any) -> bool:
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
    if not a.is_floating_point() or a.numel() == 0:
        return torch.equal(a, b)
    scale = torch.nan_to_num(b.float()).abs().max().clamp_min(1e-6)
    difference = (a.float() - b.float()).abs()
    difference = torch.where(a == b, 0.0, difference)  # equal infinities
    both_nan = a.isnan() & b.isnan()
    return bool((torch.where(both_nan, 0.0, difference) <= scale * _TOLERANCE.get(a.dtype, 5e-2)).all())


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a nested value."""
    leaves: list[Any] = []
    flatten(value, leaves, objects=True)
    return (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
