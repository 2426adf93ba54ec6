"""Intercepts the modules of a pipeline: a strand's calls go to its engine, everybody else's go straight through.

One gate for a method of a module, whoever uses it: it stays in front of whatever is put there while engines are open
(offloading, a compiled call), and goes when the last of them closes, in whatever order they do.
"""

import inspect
import itertools
import threading
import types
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry
from greenlet import getcurrent

from interlace.engine.calls.call import Target
from interlace.engine.pipeline.routine import Routine
from interlace.engine.pipeline.strand import Strand
from interlace.engine.pipeline.streamed import with_bytes
from interlace.engine.pipeline.variants import journal
from interlace.engine.pipeline.variants.commons import Commons
from interlace.engine.pipeline.variants.recorder import (
    EVERYWHERE,
    IGNORE,
    Watch,
    current,
    num_written,
    recording,
    watched,
)
from interlace.engine.pipeline.variants.state import MISSING
from interlace.engine.pipeline.view import modules_of

_METHODS = ("forward", "encode", "decode", "generate", "get_text_features", "get_image_features")
_COMPILED = "_compiled_call_impl"


class CallGate:
    """Stands for one method on a module's instance. A copy of the module has its own method, not the gate."""

    __slots__ = ("__weakref__", "__wrapped__", "commons", "method", "module", "original", "previous")

    def __init__(self, module: torch.nn.Module, method: str, commons: Commons) -> None:
        self.module, self.method, self.commons = module, method, commons
        self.previous = vars(module).get(method, MISSING)
        self.original = getattr(module, method)
        self.__wrapped__ = self.original

    def __call__(self, *args: object, **kwargs: object) -> object:
        strand = getcurrent()
        if (recorder := current()) is not None and recorder.within_forward:
            return self.original(*args, **kwargs)
        if isinstance(strand, Strand):
            target = strand.targets.get(id(self))
            return self.run(*args, **kwargs) if target is None else strand.call(target, args, kwargs)
        with self.commons.outside():
            return self.original(*args, **kwargs)

    def run(self, *args: object, **kwargs: object) -> object:
        """The method itself; what modules write to themselves meanwhile is nobody's change."""
        with recording(self.commons.within):
            return self.original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _method_of(memo.get(id(self.module), self.module), self.method)

    def __reduce__(self) -> Any:
        return _method_of, (self.module, self.method)


def _method_of(module: torch.nn.Module, method: str) -> Any:
    """The method as the module's class has it."""
    found = getattr(type(module), method, None)
    return types.MethodType(found, module) if callable(found) else None


_gates: dict[tuple[int, str], CallGate] = {}
_users: dict[tuple[int, str], int] = {}
_lock = threading.RLock()


def _renew(module: torch.nn.Module, method: str) -> None:
    """Somebody has put something in a gate's place: the gate goes in front of that."""
    with _lock:
        gate = _gates.get((id(module), method))
        if gate is None or (now := vars(module).get(method, MISSING)) is gate:
            return
        if isinstance(now, CallGate) and now.module is module:  # an earlier gate: whoever wrapped it is gone
            _gates[id(module), method] = now
            return
        if method == _COMPILED and now in (None, MISSING):
            return
        module.__dict__[method] = _gates[id(module), method] = CallGate(module, method, gate.commons)


journal.on_forward_written.append(_renew)


class Interception:
    """The modules of one engine's pipeline behind gates; `close()` leaves them as their owner has them."""

    def __init__(self, pipeline: DiffusionPipeline | Routine) -> None:
        self._pipelines = [pipeline]
        self._names: dict[int, str] = {}  # of siblings' own modules, where the name is taken
        self._modules: dict[int, torch.nn.Module] = {}
        self._held: list[tuple[int, str]] = []
        self._registries: list[torch.nn.Module] = []
        self.targets: dict[int, Target] = {}  # by the gate's id
        self.parts: dict[int, tuple[torch.nn.Module, frozenset[int]]] = {}  # by id: with the components that hold it
        self.epoch = 0  # counts the modules' coming and going
        self._seen = -1
        journal.wraps.open()
        with _lock:
            self.commons = _commons_of(modules_of(pipeline).values())
            _open.append(self)
        self.refresh()

    @property
    def modules(self) -> list[torch.nn.Module]:
        """The components that are intercepted, those that were replaced meanwhile included."""
        return list(self._modules.values())

    def adopt(self, sibling: DiffusionPipeline) -> None:
        """Another pipeline over these modules; those that it alone has get gates too."""
        taken = {target.component for target in self.targets.values()}
        for component, module in modules_of(sibling).items():
            if id(module) not in self._modules and component in taken:
                self._names[id(module)] = next(
                    name for number in itertools.count(1) if (name := f"{component}_{number}") not in taken
                )
            taken.add(self._names.get(id(module), component))
        self._pipelines.append(sibling)
        self.refresh()

    def refresh(self) -> None:
        """Before a request starts: components and methods that came since the last one, gates that were taken off."""
        found = [item for pipeline in self._pipelines for item in modules_of(pipeline).items()]
        for component, module in found:
            known = id(module) in self._modules
            if not known:
                self._modules[id(module)] = module
                self._prepare(module)
                self._let_go(module._modules.get("_orig_mod"))
            for method in _methods(module):
                key = (id(module), method)
                if key in self._held:
                    _renew(module, method)
                else:
                    self._hold(module, method)
                gate = _gates[key]
                if id(gate) not in self.targets:
                    self.targets[id(gate)] = _target(self._names.get(id(module), component), gate)
            if not known:
                self._seen = -1
        if self._seen != num_written():
            self._seen = num_written()
            self._watch()

    def _prepare(self, module: torch.nn.Module) -> None:
        """What diffusers would put on a denoiser at its first call is there from the beginning: nobody's change."""
        if hasattr(module, "cache_context") and "_diffusers_hook" not in vars(module):
            with recording(IGNORE):
                HookRegistry.check_if_exists_or_initialize(module)
            self._registries.append(module)

    def _hold(self, module: torch.nn.Module, method: str) -> None:
        key = (id(module), method)
        with _lock:
            _users[key] = _users.get(key, 0) + 1
            if key not in _gates:
                _gates[key] = gate = CallGate(module, method, self.commons)
                module.__dict__[method] = gate
            self._held.append(key)
            if method == _COMPILED and (id(module), "forward") in self._held:
                self._release(module, "forward")

    def _release(self, module: torch.nn.Module, method: str) -> None:
        key = (id(module), method)
        with _lock:
            self._held.remove(key)
            _users[key] -= 1
            if not _users[key]:
                del _users[key]
                _take_off(module, method, _gates.pop(key))

    def _let_go(self, inner: torch.nn.Module | None) -> None:
        """A component that `torch.compile` has wrapped since: it is compiled whole, so no gate may be in it."""
        for method in _METHODS:
            if inner is not None and (id(inner), method) in self._held:
                self._release(inner, method)

    def _watch(self) -> None:
        """Every part of every component, those that were loaded since included."""
        parts: dict[int, tuple[torch.nn.Module, frozenset[int]]] = {}
        for component in self._modules.values():
            for part in component.modules():
                roots = parts[id(part)][1] if id(part) in parts else EVERYWHERE
                parts[id(part)] = (part, roots | {id(component)})
        if parts.keys() != self.parts.keys():
            self.epoch += 1
        self.parts = parts
        _watch_all()

    def close(self) -> None:
        """Take the gates off, unless another engine needs them; does nothing the second time."""
        for module in self._modules.values():
            for method in (*_METHODS, _COMPILED):
                if (id(module), method) in self._held:
                    self._release(module, method)
        for module in self._modules.values():
            _clean(module)
        for module in self._registries:
            registry = vars(module).get("_diffusers_hook")
            if registry is not None and not registry.hooks:
                del module.__dict__["_diffusers_hook"]
        if self in _open:
            with _lock:
                _open.remove(self)
            self._modules, self._registries, self.parts = {}, [], {}
            self.targets.clear()
            _watch_all()
            journal.wraps.close()


_open: list[Interception] = []


def _watch_all() -> None:
    """What any open engine shares is watched."""
    with _lock:
        found: dict[int, Watch] = {}
        for interception in _open:
            for key, (part, roots) in interception.parts.items():
                known = found[key].roots if key in found else EVERYWHERE
                found[key] = Watch(part, known | roots, interception.commons)
        for key in watched.keys() - found.keys():
            del watched[key]
        watched.update(found)


def _commons_of(modules: Iterable[torch.nn.Module]) -> Commons:
    """The commons of the engines that share one of these modules; new ones where none does."""
    shared = [one for one in _open if any(id(module) in one.parts for module in modules)]
    if not shared:
        return Commons()
    first = shared[0].commons
    for other in _open:
        if other.commons is not first and any(one.commons is other.commons for one in shared):
            first.join(other.commons)
    for other in _open:
        other.commons = other.commons.now
    for gate in _gates.values():
        gate.commons = gate.commons.now
    return first


def _methods(module: torch.nn.Module) -> list[str]:
    """What is intercepted: of a compiled module not its forward, which is compiled with all that is in it."""
    compiled = vars(module).get(_COMPILED) is not None
    methods = [_COMPILED if compiled and name == "forward" else name for name in _METHODS]
    return [name for name in methods if callable(getattr(module, name, None))]


def _target(component: str, gate: CallGate) -> Target:
    method = "forward" if gate.method == _COMPILED else gate.method
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    module = vars(gate.module).get("_modules", {}).get("_orig_mod", gate.module)  # what torch.compile wraps
    own = inspect.signature(getattr(gate.module, method)).parameters.values()
    names = tuple(p.name for p in own if p.kind in kinds)
    if any(p.kind is p.VAR_POSITIONAL for p in own) and hasattr(type(module), method):  # somebody's that passes it on
        of_class = inspect.signature(getattr(type(module), method)).parameters.values()
        names += tuple(p.name for p in of_class if p.kind in kinds)[len(names) + 1 :]
    run = with_bytes(gate.module, gate.run) if method == "decode" else gate.run
    return Target(component, gate.module, method, run, names)


def _clean(module: torch.nn.Module) -> None:
    """What a wrapper (`torch.compile`) remembers of gates that are gone."""
    for name, value in vars(module).items():
        while isinstance(value, CallGate) and _gates.get((id(value.module), value.method)) is not value:
            value = vars(module)[name] = value.original


def _take_off(module: torch.nn.Module, method: str, gate: CallGate) -> None:
    """The method as it would be without us, and so what somebody remembered of it (accelerate's `_old_forward`)."""
    names = module.__dict__
    if names.get(method) is gate:
        if gate.previous is MISSING:
            del names[method]
        else:
            names[method] = gate.previous
    for name, value in names.items():
        while isinstance(value, CallGate) and value.module is module and value.method == method:
            value = names[name] = value.original
