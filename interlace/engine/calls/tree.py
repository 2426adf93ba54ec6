"""Nested arguments as a hashable skeleton and a flat list of leaves, and back again.

Containers are lists, tuples, mappings, dataclasses and, in outputs, plain objects that hold tensors (a VAE's latent
distribution, a key-value cache). Knows nothing of rows or modules.
"""

import copy
import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch

from interlace.engine.calls.rules import ROW_CACHES

Skeleton = Hashable
_LEAF = "."
_ATOMS = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type, range)


def is_atom(value: object) -> bool:
    """True for values that are compared by value and never hold rows."""
    return isinstance(value, _ATOMS)


def flatten(
    value: object, leaves: list[object], stop: Callable[[object], bool] | None = None, *, objects: bool = False
) -> Skeleton:
    """Append the leaves of `value` to `leaves`, depth first, and return its skeleton.

    `stop(container)` makes a container a leaf. With `objects`, plain objects count as containers of their attributes.
    """
    if isinstance(value, torch.Tensor) or value is None or is_atom(value) or (stop is not None and stop(value)):
        leaves.append(value)
        return _LEAF
    parts = _parts(value, objects)
    if parts is None:
        leaves.append(value)
        return _LEAF
    keys, children = parts
    return type(value), keys, tuple(flatten(child, leaves, stop, objects=objects) for child in children)


def _parts(value: Any, objects: bool) -> tuple[Hashable, list[Any]] | None:
    """The keys and children of a container; None for anything else."""
    if isinstance(value, (list, tuple)):
        return len(value), list(value)
    if isinstance(value, Mapping):
        return tuple(value.keys()), list(value.values())
    if dataclasses.is_dataclass(value):
        names = tuple(f.name for f in dataclasses.fields(value))
        return names, [getattr(value, name) for name in names]
    if (objects or type(value).__name__ in ROW_CACHES) and hasattr(value, "__dict__") and not callable(value):
        return tuple(vars(value).keys()), list(vars(value).values())
    return None


def reachable(value: object) -> Iterator[object]:
    """`value` and everything in it, plain objects' attributes included, each object once."""
    seen, todo = {id(value)}, [value]
    while todo:
        one = todo.pop()
        yield one
        if isinstance(one, torch.Tensor) or is_atom(one) or (parts := _parts(one, True)) is None:
            continue
        for child in parts[1]:
            if id(child) not in seen:
                seen.add(id(child))
                todo.append(child)


def rebuild(
    template: object, leaves: Iterator[object], stop: Callable[[object], bool] | None = None, *, objects: bool = False
) -> object:
    """A copy of `template` whose leaves are taken from `leaves`, in `flatten`'s order."""
    if isinstance(template, torch.Tensor) or is_atom(template) or (stop is not None and stop(template)):
        return next(leaves)
    parts = _parts(template, objects)
    if parts is None:
        return next(leaves)
    keys, children = parts
    new = [rebuild(child, leaves, stop, objects=objects) for child in children]
    return _assemble(template, keys, new)


def _assemble(template: Any, keys: Any, children: list[Any]) -> Any:
    kind = type(template)
    if isinstance(template, list):
        return children if kind is list else kind(children)
    if isinstance(template, tuple):
        return kind(*children) if hasattr(template, "_fields") else kind(children)
    if kind is dict:
        return dict(zip(keys, children, strict=True))
    result = copy.copy(template)
    if dataclasses.is_dataclass(template):  # ModelOutput keeps its fields both as attributes and as items
        for name, child in zip(keys, children, strict=True):
            object.__setattr__(result, name, child)
            if isinstance(result, dict) and name in result:
                dict.__setitem__(result, name, child)
        return result
    if isinstance(template, Mapping):
        return kind(dict(zip(keys, children, strict=True)))
    result.__dict__ = dict(zip(keys, children, strict=True))
    return result
