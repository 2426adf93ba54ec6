"""Large imports without the garbage collector, for a process that is the command's own.

Of the million objects that the libraries make while they are imported hardly any becomes garbage, and the collector
goes through all of them again and again: a tenth of the time to start. What was imported is left out of later
collections as well, so that these take milliseconds.
"""

import gc
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_LARGE = {"torch", "diffusers", "transformers", "interlace.engine.engine", "interlace.async_omni", "interlace.omni"}


def import_uncollected() -> None:
    """From now on. To be called before torch is imported."""
    if not any(isinstance(one, _FinderOfLarge) for one in sys.meta_path):
        sys.meta_path.insert(0, _FinderOfLarge())


class _FinderOfLarge(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _LARGE else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Uncollected(spec.loader)
        return spec


class _Uncollected(Loader):
    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        if not gc.isenabled():  # within another of them
            self._real.exec_module(module)
            return
        gc.disable()
        try:
            self._real.exec_module(module)
        finally:
            gc.freeze()
            gc.enable()
