"""Imports that wait for the first use, for a process that is the command's own: it starts in about half the time.

While they are imported, diffusers and transformers import what few runs use: the compiler for a decorator, scipy for
one kind of sigmas, each way to quantise. Once `defer_imports` was called such a module is found and not run; the first
look at what is in it runs it. Where others take names out of a module at once (`from module import name`), something
stands for these names until they are used.
"""

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from operator import attrgetter
from types import FunctionType, ModuleType
from typing import Any

_LOCK = threading.RLock()


class Later:
    """Stands for a class or a function of a deferred module: called, asked or inherited from, it is the real one."""

    def __init__(self, module: "Deferred", name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> Any:
        return attrgetter(self._name)(loaded(self._module))

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real(), name)

    def __instancecheck__(self, thing: object) -> bool:
        return isinstance(thing, self._real())

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._real())

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (self._real(),)

    def __reduce__(self) -> tuple[object, ...]:
        return _named, (self._module.__name__, self._name)

    @property
    def _waits(self) -> bool:
        return type(self._module) is Deferred


class Noting(Later):
    """Stands for a decorator that registers what it is given: that is made up for when its module is run."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        with _LOCK:
            if self._waits:
                vars(self._module)["__notes__"].append((self._name, args[0]))
                return args[0]
        return super().__call__(*args, **kwargs)


class Exempt(Later):
    """Stands for a decorator that exempts a function from what its module does: nothing, until the module is run."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        function = args[0] if args else None
        if self._waits and function is None:  # with how it is to be exempt first
            return lambda function: self(function, *args[1:], **kwargs)
        if not self._waits or not isinstance(function, FunctionType):
            return super().__call__(*args, **kwargs)
        exempted: list[Callable[..., object]] = []

        @functools.wraps(function)
        def call(*given: object, **named: object) -> object:
            if self._waits:
                return function(*given, **named)
            if not exempted:
                exempted.append(self._real()(*args, **kwargs))
            return exempted[0](*given, **named)

        return call


class Unmade(Later):
    """Stands for a module of classes, and for each of them: none has an instance before its module is run."""

    def __getattr__(self, name: str) -> object:
        return type(self)(self._module, f"{self._name}.{name}") if self._waits else super().__getattr__(name)

    def __instancecheck__(self, thing: object) -> bool:
        return not self._waits and super().__instancecheck__(thing)


def _named(module: str, name: str) -> object:
    return attrgetter(name)(sys.modules[module])


# What waits, and what stands for the names that others take out of it at once.
_MODULES: dict[str, dict[str, type[Later]]] = {
    # by diffusers.utils.torch_utils and transformers.generation
    "torch._dynamo": {
        "allow_in_graph": Noting,
        "assume_constant_result": Noting,
        "disable": Exempt,
        "eval_frame": Unmade,
    },
    "torch._dynamo._trace_wrapped_higher_order_op": {"TransformGetItemToIndex": Later},  # transformers.masking_utils
    "scipy.stats": {},  # by diffusers' schedulers
    "scipy.integrate": {},
    "scipy.optimize": {"linear_sum_assignment": Later},  # by transformers' losses of object detection
    "boto3": {},  # by accelerate
    "diffusers.quantizers.torchao": {"TorchAoHfQuantizer": Later},
    "transformers.quantizers.quantizer_torchao": {"TorchAoHfQuantizer": Later},
    "diffusers.quantizers.gguf": {"GGUFQuantizer": Later},
}


def defer_imports() -> None:
    """From now on, in this process. To be called before diffusers and transformers are imported."""
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class Deferred(ModuleType):
    """A module that was found and has not been run."""

    def __getattribute__(self, name: str) -> Any:
        own = ModuleType.__getattribute__
        held = own(self, "__dict__")
        known = name in held or hasattr(ModuleType, name) or name == "__path__"  # which only packages have
        if (known and name.startswith("__")) or held["__thread__"] == threading.get_ident():
            return own(self, name)
        if isinstance(held.get(name), ModuleType):  # a module of its that was imported by itself
            return held[name]
        stand_in = _MODULES[held["__name__"]].get(name)
        return getattr(loaded(self), name) if stand_in is None else stand_in(self, name)


def loaded(module: ModuleType) -> ModuleType:
    """The module, run. Raises what it raises."""
    if type(module) is not Deferred:
        return module
    with _LOCK:
        held = vars(module)
        if type(module) is Deferred and held["__thread__"] is None:
            held["__thread__"] = threading.get_ident()
            try:
                held["__loader__"].exec_module(module)
            except BaseException:
                held["__thread__"] = None
                raise
            object.__setattr__(module, "__class__", ModuleType)
            for name, thing in held.pop("__notes__"):
                held[name](thing)
    return module


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _MODULES:
            return self._after_parent(name)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Deferring(spec.loader)
        return spec

    def _after_parent(self, name: str) -> ModuleSpec | None:
        """A package is run before what is in it, and may bring that along."""
        parent = sys.modules.get(name.rpartition(".")[0])
        if type(parent) is not Deferred:
            return None
        loaded(parent)
        module = sys.modules.get(name)
        if module is None:
            return None
        module.__spec__ = ModuleSpec(name, _Present(module))  # importlib goes by this one
        return module.__spec__


class _Present(Loader):
    """Of a module that was loaded while it was looked for."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Deferring(Loader):
    """Runs nothing yet; `real` does so later."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(__notes__=[], __thread__=None, __loader__=self.real)
        if module.__spec__ is not None:
            module.__spec__.loader = self.real
        module.__class__ = Deferred
