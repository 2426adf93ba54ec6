"""What stands for a name of a deferred module: the kinds, by how those use a name who take it out at once."""

import functools
from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from types import FunctionType
from typing import Any

from interlace.python.deferred.modules import NOTES_LOCK, Deferred, loaded


class Later:
    """Stands for a class, a function or a mapping: called, asked or inherited from, it is the real one."""

    def __init__(self, module: Deferred, name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> Any:
        return attrgetter(self._name)(loaded(self._module))

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        if name in ("__parameters__", "__typing_subst__"):  # a type hint is written with it
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __getitem__(self, item: object) -> object:
        return self._real()[item]

    def __contains__(self, item: object) -> bool:
        return item in self._real()

    def __iter__(self) -> Iterator[object]:
        return iter(self._real())

    def __or__(self, other: object) -> object:
        return self._real() | other

    def __ror__(self, other: object) -> object:
        return other | self._real()

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
        with NOTES_LOCK:
            if self._waits:
                vars(self._module)["__deferral__"].notes.append(lambda: self._real()(*args, **kwargs))
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
    """Stands for a class that has no instance before its module is run."""

    def __instancecheck__(self, thing: object) -> bool:
        return not self._waits and super().__instancecheck__(thing)


class UnmadeWithin(Later):
    """Stands for a module of such classes."""

    def __getattr__(self, name: str) -> object:
        return Unmade(self._module, f"{self._name}.{name}") if self._waits else super().__getattr__(name)


class Truth(Later):
    """Stands for a function that makes a bool of a symbolic one: a plain one is the answer."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        return args[0] if args and type(args[0]) is bool else super().__call__(*args, **kwargs)


def _named(module: str, name: str) -> object:
    return attrgetter(name)(loaded(import_module(module)))
