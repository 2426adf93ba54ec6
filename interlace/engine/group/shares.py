"""A call's arguments as the shares of several ranks, and their outputs as one. Pure functions on tensors."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import rebuilt
from interlace.engine.calls.roles import Leaf, Role, UnfusableError
from interlace.engine.calls.split import CannotSplitError
from interlace.engine.calls.tree import flatten, is_atom, rebuild
from interlace.engine.group.ranks import Kind, kind_of


@dataclass(frozen=True)
class Slot:
    """In the place of a tensor: which of those that travel beside."""

    index: int


@dataclass(frozen=True)
class Share:
    """One part of a call's rows: arguments with slots for the tensors, and those."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[torch.Tensor]
    rows: int

    @property
    def kinds(self) -> list[Kind]:
        return [kind_of(tensor) for tensor in self.tensors]


def bounds_of(rows: int, parts: int) -> list[tuple[int, int]]:
    """`rows` in up to so many parts, as equal as can be: first row and the one behind the last of each."""
    parts = max(min(rows, parts), 1)
    cuts = [rows * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(cuts))


def share(call: ModuleCall, start: int, stop: int) -> Share:
    """Rows `start` to `stop` of a call. Raises `UnfusableError` where it can't be said what they are."""
    tensors: list[torch.Tensor] = []
    leaves = [_part(leaf, value, call.rows, start, stop) for leaf, value in zip(call.layout, call.leaves, strict=True)]
    args, kwargs = rebuilt(call, [_slots(value, tensors) for value in leaves])
    return Share(args, kwargs, tensors, stop - start)


def filled(value: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """`value` with tensors in the place of slots; plain objects in it count as containers."""
    leaves: list[Any] = []
    flatten(value, leaves, _is_slot, objects=True)
    full = (tensors[leaf.index] if isinstance(leaf, Slot) else leaf for leaf in leaves)
    return rebuild(value, full, _is_slot, objects=True)


def emptied(output: object) -> tuple[object, list[torch.Tensor]]:
    """An output with slots for its tensors, and those."""
    tensors: list[torch.Tensor] = []
    leaves: list[Any] = []
    flatten(output, leaves, objects=True)
    return rebuild(output, iter([_slots(leaf, tensors) for leaf in leaves]), objects=True), tensors


def joined(outputs: Sequence[Any], rows: Sequence[int]) -> Any:
    """One output of all rows. Raises `CannotSplitError` where that of a part has no dimension of its rows."""
    if len(outputs) == 1:
        return outputs[0]
    columns: list[list[Any]] = []
    for output, count in zip(outputs, rows, strict=True):
        columns.append([])
        flatten(output, columns[-1], partial(_is_rows, count), objects=True)
    whole: Iterator[Any] = iter([_whole(column, rows) for column in zip(*columns, strict=True)])
    return rebuild(outputs[0], whole, partial(_is_rows, rows[0]), objects=True)


def _is_rows(num_rows: int, value: Any) -> bool:
    return type(value) is list and len(value) == num_rows


def _whole(column: Sequence[Any], rows: Sequence[int]) -> Any:
    first = column[0]
    if isinstance(first, list):
        return [item for part in column for item in part]
    if not isinstance(first, torch.Tensor):
        return first
    if first.ndim == 0 or any(part.shape[0] % count for part, count in zip(column, rows, strict=True)):
        raise CannotSplitError(f"an output of shape {tuple(first.shape)} has no dimension of {rows[0]} rows")
    return torch.cat(list(column))


def _part(leaf: Leaf, value: Any, rows: int, start: int, stop: int) -> Any:
    if leaf.role in (Role.SHARED, Role.POSITIONS) or value is None:
        return value
    if leaf.role is Role.ITEMS:
        return value[start:stop]
    if leaf.role is Role.SCALAR:
        return value if value.numel() == 1 else value[start:stop]
    if leaf.role is Role.PACKED:
        raise UnfusableError(f"{leaf.name} holds any number of entries a row")
    return value.narrow(leaf.dim, start * leaf.multiple, (stop - start) * leaf.multiple)


def _slots(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return Slot(len(tensors) - 1)
    if isinstance(value, list):
        return [_slots(item, tensors) for item in value]
    if is_atom(value):
        return value
    raise UnfusableError(f"a {type(value).__name__} can't be sent to another rank")


def _is_slot(value: Any) -> bool:
    return isinstance(value, Slot)
