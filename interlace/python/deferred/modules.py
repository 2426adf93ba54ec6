"""Modules that were found and have not been run: what of them is there, and how one is run. Knows no module's name.

One is run under importlib's own lock for it, after the packages that it is in. So where two threads wait for each
other's imports, one of them goes on with what is there, as always where imports go in a circle.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import _bootstrap, import_module
from types import FrameType, ModuleType
from typing import Any

# Who may be given something that stands for a name. Everybody else gets the real one, the modules' own packages, too.
_TAKERS = {"torch", "torch._compile", "torch._prims_common", "torch.compiler"}
_PACKAGES_OF_TAKERS = ("accelerate.", "diffusers.", "interlace.", "transformers.")
IMPORTLIB: Any = _bootstrap  # what locks modules there has no public name
NOTES_LOCK = threading.Lock()


class Deferred(ModuleType):
    """A module that was found and has not been run."""

    def __getattribute__(self, name: str) -> Any:
        own = ModuleType.__getattribute__
        held = own(self, "__dict__")
        known = name in held or hasattr(ModuleType, name) or name == "__path__"  # which only packages have
        if (known and name.startswith("__")) or held["__deferral__"].thread == threading.get_ident():
            return own(self, name)
        if isinstance(held.get(name), ModuleType):  # a module of its that was imported by itself
            return held[name]
        deferral: Deferral = held["__deferral__"]
        if name in deferral.kinds and (taker := _taker()) is not None:
            return deferral.stand_in(self, name, taker)
        module = loaded(self)
        return own(self, name) if type(module) is Deferred else getattr(module, name)


@dataclass
class Deferral:
    """What there is to know of a deferred module, as its `__deferral__`."""

    kinds: Mapping[str, Callable[[Deferred, str], object]]  # what stands for the names that others take out of it
    thread: int | None = None  # the one that runs it
    notes: list[Callable[[], object]] = field(default_factory=list)  # to be called once it was run
    _stand_ins: dict[str, object] = field(default_factory=dict)
    _takers: dict[int, dict[str, Any]] = field(default_factory=dict)  # names of the modules that took them

    def stand_in(self, module: Deferred, name: str, taker: dict[str, Any]) -> object:
        """For a name, for as long as the module waits."""
        self._takers[id(taker)] = taker
        return self._stand_ins.setdefault(name, self.kinds[name](module, name))

    def hand_over(self, names: Mapping[str, object]) -> None:
        """Those who took something that stands for one of these names have the real thing now."""
        real = {id(thing): names[name] for name, thing in list(self._stand_ins.items()) if name in names}
        for taker in list(self._takers.values()):
            taker.update({name: real[id(thing)] for name, thing in list(taker.items()) if id(thing) in real})
        self._takers.clear()


def defer(module: ModuleType, kinds: Mapping[str, Callable[[Deferred, str], object]]) -> Deferral:
    """From now on the module, of which nothing was run, is a deferred one."""
    deferral = vars(module)["__deferral__"] = Deferral(kinds)
    module.__class__ = Deferred
    return deferral


def loaded(module: ModuleType) -> ModuleType:
    """The module, run. Raises what it raises. As it is so far, where this very thread runs it, or where another one
    does that waits for this one."""
    if type(module) is not Deferred:
        return sys.modules.get(module.__name__, module)  # some put another in their place
    deferral: Deferral = vars(module)["__deferral__"]
    if deferral.thread == threading.get_ident():
        return module
    parent = sys.modules.get(module.__name__.rpartition(".")[0])
    if type(parent) is Deferred:
        loaded(parent)
    lock = IMPORTLIB._get_module_lock(module.__name__)
    try:
        lock.acquire()
    except IMPORTLIB._DeadlockError:
        return module
    try:
        if type(module) is Deferred:
            deferral.thread = threading.get_ident()
            _run(module, deferral)
    finally:
        deferral.thread = None
        lock.release()
    return loaded(module)


def _run(module: ModuleType, deferral: Deferral) -> None:
    held = vars(module)
    held["__loader__"].exec_module(module)
    deferral.hand_over(held)
    while True:
        with NOTES_LOCK:
            if not deferral.notes:
                if type(module) is Deferred:  # some make themselves another kind
                    object.__setattr__(module, "__class__", ModuleType)
                return
            note = deferral.notes.pop(0)
        note()


def when_run(name: str, act: Callable[[], object]) -> None:
    """Call `act` as soon as the module of this name was run: now, where it is none that waits."""
    module = import_module(name)
    with NOTES_LOCK:
        if type(module) is Deferred:
            vars(module)["__deferral__"].notes.append(act)
            return
    act()


def _taker() -> dict[str, Any] | None:
    """The names of the module that asks a deferred one for a name, if that may be given something else."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == "importlib._bootstrap":
        frame = frame.f_back
    names = {} if frame is None else frame.f_globals
    asks = str(names.get("__name__"))
    return names if asks in _TAKERS or f"{asks}.".startswith(_PACKAGES_OF_TAKERS) else None
