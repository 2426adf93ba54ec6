"""Where the state of modules lies, and what of it changed: names in objects, contents of containers, data of tensors.

Knows modules only as Python objects: nothing here knows what a name means, so nothing has to be listed.
"""

import functools
import types
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "MISSING"})()

_CONTAINERS = (dict, list, set, OrderedDict)
_ATOMS = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_OPAQUE = (
    torch.nn.Module,
    torch.Tensor,
    type,
    functools.partial,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    dict,  # of other than plain kinds: settings that nobody writes to
    list,
    tuple,
    torch.Generator,
)
_DEPTH = 2  # of plain objects within an object: a processor, and what it holds


class Name:
    """A name in an object's `__dict__`; `MISSING` where it isn't there."""

    __slots__ = ("key", "name", "names")

    def __init__(self, names: dict[str, object], name: str) -> None:
        self.names, self.name = names, name
        self.key: Hashable = (id(names), name)

    def read(self) -> object:
        return self.names.get(self.name, MISSING)

    def write(self, value: object) -> None:
        if value is MISSING:
            self.names.pop(self.name, None)
        else:
            self.names[self.name] = value


class Contents:
    """All that a dict, list or set holds, in its order."""

    __slots__ = ("container", "key")

    def __init__(self, container: Any) -> None:
        self.container = container
        self.key: Hashable = (id(container), None)

    def read(self) -> Any:
        return self.container.copy()

    def write(self, value: Any) -> None:
        self.container.clear()
        if isinstance(self.container, list):
            self.container.extend(value)
        else:
            self.container.update(value)


class Data:
    """The tensor behind a parameter, which stays the same object when it is cast or replaced."""

    __slots__ = ("key", "parameter")

    def __init__(self, parameter: torch.Tensor) -> None:
        self.parameter = parameter
        self.key: Hashable = (id(parameter), "data")

    def read(self) -> torch.Tensor:
        return self.parameter.data

    def write(self, value: torch.Tensor) -> None:
        self.parameter.data = value


Place = Name | Contents | Data


def look(thing: object, depth: int = _DEPTH) -> list[tuple[object, object, bool]]:
    """An object's state as it is now: (container, copy, whether the container is an object's names)."""
    names = vars(thing)
    seen: list[tuple[Any, Any, bool]] = [(names, names.copy(), True)]
    for value in names.values():
        kind = type(value)
        if kind in _CONTAINERS:
            seen.append((value, value.copy(), False))
        elif depth and is_plain(value):
            seen += look(value, depth - 1)
    return seen


def is_plain(value: object) -> bool:
    """An object of somebody's class, whose attributes are its state: an attention processor, a hook."""
    return not isinstance(value, _ATOMS) and not isinstance(value, _OPAQUE) and hasattr(value, "__dict__")


def changes(before: list[tuple[Any, Any, bool]]) -> Iterator[tuple[Place, Any]]:
    """The places that are no longer as they were, each with what was there."""
    for container, copy, is_names in before:
        if not is_names:
            if not same(container, copy):
                yield Contents(container), copy
            continue
        for name in copy.keys() | container.keys() if len(copy) != len(container) else copy:
            if container.get(name, MISSING) is not copy.get(name, MISSING):
                yield Name(container, name), copy.get(name, MISSING)
        if len(copy) == len(container) and copy.keys() != container.keys():
            for name in container.keys() - copy.keys():
                yield Name(container, name), MISSING


def same(one: object, other: object) -> bool:
    """Whether two values are one: the same object, equal numbers or texts, containers of such, one tensor's data."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and _tensor(one) == _tensor(other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set):
        return isinstance(other, set) and one == other
    return type(one) is type(other) and isinstance(one, _ATOMS) and bool(one == other)


def meaning(value: object, depth: int = 3) -> Hashable:
    """What two values must have in common to do the same: numbers by value, plain objects by class and attributes."""
    if isinstance(value, _ATOMS):
        return type(value), value
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if depth and isinstance(value, dict):
        return type(value), tuple((repr(key), meaning(item, depth - 1)) for key, item in value.items())
    if depth and isinstance(value, (list, tuple)):
        return type(value), tuple(meaning(item, depth - 1) for item in value)
    if depth and is_plain(value) and not hasattr(type(value), "__slots__"):
        return type(value), tuple((name, meaning(item, depth - 1)) for name, item in sorted(vars(value).items()))
    return id(value)


def kind_of(value: Hashable) -> Hashable:
    """A meaning without its numbers: scales may differ, switches and classes may not."""
    if isinstance(value, tuple):
        if len(value) == 2 and value[0] in (int, float):
            return value[0]
        if len(value) == 5 and isinstance(value[1], torch.dtype):  # a tensor: which one it is doesn't matter
            return value[1:]
        return tuple(kind_of(item) for item in value)
    return value


def _tensor(tensor: torch.Tensor) -> Hashable:
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride()


def equal(one: Any, other: Any) -> bool:
    """Whether a container is as it was; False where that can't be told."""
    try:
        return bool(one == other)
    except Exception:  # tensors of several elements among the values: one was replaced
        return False


def loose_of(parts: Iterable[tuple[torch.nn.Module, frozenset[int]]]) -> list[list[Any]]:
    """State that modules don't see being written to, as `look` gives it, and the components that it may matter to."""
    found: dict[int, list[Any]] = {}
    for part, roots in parts:
        for container, copy, is_names in _loose(part):
            known = found.setdefault(id(container), [container, copy, is_names, roots])
            known[3] |= roots
    return list(found.values())


def _loose(part: torch.nn.Module) -> Iterator[tuple[Any, Any, bool]]:
    """Numbers in lists and dicts, what processors hold."""
    is_adapter = "lora_A" in part._modules
    for name, value in vars(part).items():
        if name.startswith("_") or (is_adapter and name != "scaling"):
            continue
        if type(value) in (dict, list) and value:
            yield value, value.copy(), False
        elif name == "processor" and is_plain(value):
            yield from look(value)
