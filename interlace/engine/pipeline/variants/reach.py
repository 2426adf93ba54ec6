"""State that code of strangers can reach and keep: attributes, classes, closures, globals, containers, tensors.

An attention processor, a hook or a patched forward may count steps in any of these. Libraries' own code is trusted not
to. Knows nothing of modules' owners or requests.
"""

import functools
import random
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from interlace.engine.pipeline.variants.code import ATOMS, content_of, is_foreign, logs_of, names_in
from interlace.engine.pipeline.variants.holdings import (
    Elements,
    Filling,
    HeldCell,
    HeldClass,
    HeldNames,
    Holding,
    PythonNumbers,
    TorchNumbers,
    Unknowable,
    data_of,
)

_CONTAINERS = (dict, list, set, deque)
_DEPTH = 5  # of things within things


class Uses:
    """Of all strangers' code on a pipeline: the variables that some of it only adds to, and what some of it looks at.

    A log that nobody looks at changes nothing; one that another function reads is state like any other.
    """

    def __init__(self) -> None:
        self.logs: set[object] = set()
        self.looked: set[object] = set()

    @property
    def apart(self) -> bool:
        """Whether logs are nothing but logs."""
        return not self.logs & self.looked


class _Walk:
    """Visits what can be reached, each thing once. With `logs`, what code only adds to is left alone."""

    def __init__(self, *, logs: bool, uses: Uses | None) -> None:
        self.kept: list[Holding] = []
        self._logs, self._uses = logs, uses or Uses()
        self._seen: dict[int, Any] = {}

    def visit(self, thing: Any, depth: int = _DEPTH) -> None:
        if isinstance(thing, ATOMS) or depth < 0 or id(thing) in self._seen:
            return
        self._seen[id(thing)] = thing
        self._uses.looked.add(id(thing))
        if isinstance(thing, types.FunctionType):
            self._function(thing, depth)
        elif isinstance(thing, types.MethodType):
            self.visit(thing.__func__, depth)
            self.visit(thing.__self__, depth)
        elif isinstance(thing, functools.partial):
            self._all((thing.func, *thing.args, *thing.keywords.values()), depth)
        elif isinstance(thing, torch.Tensor):
            if not isinstance(thing, torch.nn.Parameter) and thing.layout is torch.strided:
                self.kept.append(Elements(thing))
        elif isinstance(thing, np.ndarray):
            self.kept.append(Elements(thing))
        elif isinstance(thing, torch.Generator):
            self.kept.append(TorchNumbers(thing))
        elif isinstance(thing, _CONTAINERS):
            self.kept.append(Filling(thing))
            self._all(list(thing.values() if isinstance(thing, dict) else thing), depth - 1)
        elif isinstance(thing, tuple):
            self._all(thing, depth - 1)
        elif isinstance(thing, type):
            self.of_class(thing, depth)
        elif isinstance(thing, (random.Random, np.random.Generator)):
            self.kept.append(PythonNumbers(thing))
        elif hasattr(type(thing), "__next__"):
            self.kept.append(Unknowable())
        elif not isinstance(thing, (torch.nn.Module, DiffusionPipeline)):
            self._object(thing, depth)

    def of_module(self, module: torch.nn.Module) -> None:
        """A module whose own code is a stranger's: its attributes and buffers, and its class."""
        self.kept.append(HeldNames(vars(module)))
        for value in list(vars(module).values()):
            if type(value) in _CONTAINERS and value:
                self.kept.append(Filling(value))
        self._all([one for one in module._buffers.values() if one is not None], _DEPTH)
        self.of_class(type(module), _DEPTH, any_class=True)

    def of_class(self, kind: type, depth: int, *, any_class: bool = False) -> None:
        """A class's own attributes, and what its methods reach."""
        for one in kind.__mro__:
            if is_foreign(one) or (any_class and one is kind):
                self.kept.append(HeldClass(one))
                self._all([value for value in vars(one).values() if isinstance(value, types.FunctionType)], depth)
                self._all(list(data_of(one).values()), depth - 1)

    def _all(self, things: Any, depth: int) -> None:
        for thing in things:
            self.visit(thing, depth)

    def _function(self, function: types.FunctionType, depth: int) -> None:
        if not is_foreign(function):
            return
        logs, variables = logs_of(function.__code__), function.__globals__
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name in logs:
                self._uses.logs |= {id(cell), id(content_of(cell))}
            else:
                self._uses.looked.add(id(cell))
            if name not in logs or not self._logs:
                self.kept.append(HeldCell(cell))
                self.visit(content_of(cell), depth - 1)
        for name in logs & variables.keys():
            self._uses.logs |= {(id(variables), name), id(variables[name])}
        logs = logs if self._logs else frozenset()
        self._all((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()), depth - 1)
        names = {name for name in names_in(function.__code__) - logs if name in function.__globals__}
        values = {name: function.__globals__[name] for name in names}
        if data := frozenset(name for name, value in values.items() if isinstance(value, (*ATOMS, torch.Tensor))):
            self.kept.append(HeldNames(function.__globals__, data))
            self._uses.looked |= {(id(variables), name) for name in data}
        self._all([value for value in values.values() if not isinstance(value, types.ModuleType)], depth - 1)

    def _object(self, thing: Any, depth: int) -> None:
        if not (is_foreign(type(thing)) or isinstance(thing, types.SimpleNamespace)):
            return
        if (names := getattr(thing, "__dict__", None)) is not None:
            self.kept.append(HeldNames(names))
            self._all(list(names.values()), depth - 1)
        self.of_class(type(thing), depth - 1)


def reach(thing: object, *, logs: bool = True, uses: Uses | None = None) -> list[Holding]:
    """Whatever a stranger's object or function can keep state in, as it is now.

    With `logs` what it only adds to is left out; `uses` is told of both.
    """
    walk = _Walk(logs=logs, uses=uses)
    walk.visit(thing)
    return walk.kept


def reach_of_module(
    module: torch.nn.Module, forward: Callable[..., object], *, logs: bool = True, uses: Uses | None = None
) -> list[Holding]:
    """The same of a module whose forward a stranger wrote."""
    walk = _Walk(logs=logs, uses=uses)
    walk.of_module(module)
    walk.visit(forward)
    return walk.kept


def containers_of(module: torch.nn.Module) -> list[Holding]:
    """What a hook can write to without having it: containers that its module holds, and what is in them."""
    walk = _Walk(logs=False, uses=None)
    for name, value in vars(module).items():
        if name not in _MODULES_OWN and type(value) in _CONTAINERS:
            walk.visit(value)
    return walk.kept


_MODULES_OWN = frozenset(vars(torch.nn.Module())) | {"_internal_dict"}


def holds_things(kept: list[Holding]) -> bool:
    """Whether somebody else could write to it past every function that is known: containers, objects, tensors."""
    return any(not isinstance(one, HeldCell) and not (isinstance(one, HeldNames) and one.only) for one in kept)
