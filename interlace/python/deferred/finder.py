"""Finds the modules of the table, and defers them. Nothing is run while one is looked for: importlib lets no other
thread import anything meanwhile."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import get_ident
from types import ModuleType

from interlace.python.deferred.modules import IMPORTLIB, Deferred, defer, loaded
from interlace.python.deferred.table import COMPANIONS, MODULES, Kinds


def defer_imports(table: Mapping[str, Kinds] = MODULES) -> None:
    """From now on, in this process. To be called before diffusers and transformers are imported."""
    if hasattr(IMPORTLIB, "_get_module_lock") and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder(table))


class _Finder(MetaPathFinder):
    def __init__(self, table: Mapping[str, Kinds]) -> None:
        self._table = table

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        packages = [package for package in map(sys.modules.get, _packages(name)) if type(package) is Deferred]
        if any(vars(package)["__deferral__"].thread == get_ident() for package in packages):
            return None  # what a package imports while it is run is run as well
        if not packages and name not in self._table:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            kinds = self._table.get(name)
            spec.loader = _After(spec.loader, packages) if kinds is None else _Deferring(spec.loader, kinds)
        return spec


def _packages(name: str) -> Iterator[str]:
    """Those that a module is in."""
    while name := name.rpartition(".")[0]:
        yield name


class _Deferring(Loader):
    """Runs nothing yet; `real` does so later."""

    def __init__(self, real: Loader, kinds: Kinds) -> None:
        self._real, self._kinds = real, kinds

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _is_loaded_by(module, self._real)
        defer(module, self._kinds).notes += [partial(_load, name) for name in COMPANIONS.get(module.__name__, ())]


def _load(name: str) -> None:
    loaded(import_module(name))


class _After(Loader):
    """Runs a module after the packages that it is in, which may bring it along."""

    def __init__(self, real: Loader, packages: Sequence[ModuleType]) -> None:
        self._real, self._packages = real, packages
        self._brought: tuple[ModuleType, ModuleSpec | None] | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        with _let_go(spec.name):
            for package in self._packages:
                loaded(package)
        module = sys.modules.get(spec.name)
        if module is None:
            return self._real.create_module(spec)
        self._brought = module, module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        if self._brought is not None:
            module.__spec__ = self._brought[1]
            return
        _is_loaded_by(module, self._real)
        self._real.exec_module(module)


def _is_loaded_by(module: ModuleType, loader: Loader) -> None:
    module.__loader__ = loader
    if module.__spec__ is not None:
        module.__spec__.loader = loader


@contextmanager
def _let_go(name: str) -> Iterator[None]:
    """Another thread may import this module, which importlib has locked for the present one."""
    lock, depth = IMPORTLIB._get_module_lock(name), 0
    with suppress(RuntimeError):  # until there is nothing to release
        while True:
            lock.release()
            depth += 1
    try:
        yield
    finally:
        for _ in range(depth):
            lock.acquire()
