"""What keeps state of its own in shared modules, so that requests have to run one at a time, and its state again.

Caches that the owner enabled; attention processors, hooks and forwards of the owner's own that turn out to remember.
The latter show in the first request, which runs alone for that, unless their code can't write to anything.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from interlace.engine.pipeline.intercept import CallGate
from interlace.engine.pipeline.variants.code import is_foreign, may_write
from interlace.engine.pipeline.variants.reach import (
    Holding,
    Uses,
    containers_of,
    holds_things,
    reach,
    reach_of_module,
)
from interlace.engine.pipeline.variants.state import is_plain

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Stranger(NamedTuple):
    """Code of strangers in a module. `things` is what it is known by, `look` gives what it can keep state in."""

    name: str
    things: tuple[Any, ...]
    look: Callable[..., list[Holding]]
    code: tuple[Any, ...]  # what may write
    hooks: dict[int, Any] | None = None  # of a hook: where it is registered, and as what
    number: int = 0
    module: torch.nn.Module | None = None  # and at which module

    @property
    def key(self) -> tuple[int, ...]:
        return tuple(id(thing) for thing in self.things)


class Keepers:
    """The parts of a pipeline's modules that may keep state. `reason` is empty where requests may run together."""

    def __init__(self) -> None:
        self.reason = ""
        self._parts: list[torch.nn.Module] = []
        self.harmless: dict[tuple[int, ...], Stranger] = {}  # what a whole request left as it was
        self.stateful: dict[tuple[int, ...], Stranger] = {}
        self._caching: list[Any] = []
        self._suspects: list[Stranger] = []
        self._logs = True  # whether what code only adds to is nothing but a log

    def look(self, modules: Iterable[torch.nn.Module]) -> None:
        """What there is now, for requests that start from now on."""
        self._parts = list(modules)
        self._caching = [part for part in self._parts if _has_stateful_hooks(part)]
        self._suspects = [one for part in self._parts for one in _suspects_of(part)]
        if (apart := self._logs_apart()) != self._logs:
            self._logs = apart
            self.harmless.clear()
        stateful = [one for one in self._suspects if one.key in self.stateful]
        unknown = [one for one in self._suspects if one.key not in self.stateful and not self._is_harmless(one)]
        if self._caching:
            name = next(iter(self._caching[0]._diffusers_hook.hooks))
            self.reason = f"a cache that was enabled on the model keeps its state there ({name})"
        elif stateful:
            self.reason = f"{stateful[0].name} keeps state of its own"
        else:
            self.reason = f"{unknown[0].name} is yet to be watched for a request" if unknown else ""

    def look_again(self) -> None:
        """The same parts: hooks that their owner has removed since are no reason any more, and nothing tells of it."""
        self.look(self._parts)

    def begin(self) -> "Guard":
        """A request starts alone."""
        suspects = [one for one in self._suspects if one.key not in self.harmless]
        others = len(self._suspects) > 1
        return Guard(self, self._caching, suspects, logs=self._logs, others=others)

    def _logs_apart(self) -> bool:
        if all(one.key in self.harmless for one in self._suspects):
            return self._logs
        uses = Uses()
        for one in self._suspects:
            one.look(uses=uses)
        return uses.apart

    def _is_harmless(self, suspect: Stranger) -> bool:
        if suspect.key in self.harmless:
            return True
        writes = any(may_write(code, logs=self._logs) for code in suspect.code)
        harmless = not writes and (suspect.hooks is None or not holds_things(suspect.look(logs=self._logs)))
        if harmless:
            self.harmless[suspect.key] = suspect
        return harmless


class Guard:
    """Around a request that runs alone: what its forwards leave is taken back; what never changes is known from it."""

    def __init__(
        self, keepers: Keepers, caching: list[Any], suspects: list[Stranger], *, logs: bool, others: bool
    ) -> None:
        """`others`: whether there is more than one, of which one may read what another writes."""
        self._keepers, self._caching, self._others = keepers, caching, others
        self._before = [(one, one.look(logs=logs)) for one in suspects]
        self._around = {one.key: containers_of(one.module) for one in suspects if one.module is not None}
        self._restless = set(keepers.stateful)
        self._logs = logs
        self._observed: dict[tuple[int, ...], _Observed] = {}
        for one in suspects:
            if one.hooks is not None and one.key not in keepers.stateful:
                self._observed[one.key] = _Observed(one.hooks, one.number)

    def glance(self) -> None:
        """Half way through the request: what counts its steps may be back where it was at the end."""
        for one, before in self._before:
            if one.key not in self._restless and any(kept.changed() for kept in before):
                self._restless.add(one.key)

    def end(self, *, completed: bool) -> None:
        """The request has ended. One that has not `completed` proves nobody harmless: their code may not have run."""
        for part in self._caching:
            if (registry := vars(part).get("_diffusers_hook")) is not None:
                registry.reset_stateful_hooks(recurse=False)
        changed = [
            [kept for kept in (*before, *self._around.get(one.key, ())) if kept.changed()]
            for one, before in self._before
        ]
        for (suspect, before), what in zip(self._before, changed, strict=True):
            stateful, takes_part = suspect.key in self._restless or bool(what), True
            if (observed := self._observed.get(suspect.key)) is not None:
                observed.take_off()
                takes_part = observed.takes_part
                writes = any(may_write(code, logs=self._logs) for code in suspect.code)  # for others to read
                stateful = stateful or writes or (takes_part and holds_things(before))
            if stateful:
                for kept in what if takes_part or self._others else ():  # else it is what its owner wants to read
                    kept.restore()
                self._keepers.stateful[suspect.key] = suspect
            elif completed:
                self._keepers.harmless[suspect.key] = suspect


class _Observed:
    """A hook on its first request: does it only look, or does it take part?"""

    def __init__(self, hooks: dict[int, Any], number: int) -> None:
        self.hook, self._hooks, self._number = hooks[number], hooks, number
        self.takes_part = False
        hooks[number] = self

    def take_off(self) -> None:
        if self._hooks.get(self._number) is self:
            self._hooks[self._number] = self.hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [one for one in _tensors((args[1:], kwargs)) if not one.is_inference()]
        versions = [one._version for one in tensors]
        result = self.hook(*args, **kwargs)
        if result is not None or versions != [one._version for one in tensors]:
            self.takes_part = True
        return result


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (one for item in value.values() for one in _tensors(item))
    elif isinstance(value, (list, tuple)):
        yield from (one for item in value for one in _tensors(item))


def forget_registries(modules: Iterable[torch.nn.Module]) -> None:
    """Denoisers remember which of their parts have diffusers' hooks: from now on those that they have on now."""
    for module in modules:
        if (registry := vars(module).get("_diffusers_hook")) is not None:
            registry._child_registries_cache = None


def _has_stateful_hooks(module: torch.nn.Module) -> bool:
    registry = vars(module).get("_diffusers_hook")
    return registry is not None and any(hook._is_stateful for hook in registry.hooks.values())


def _suspects_of(part: torch.nn.Module) -> Iterator[Stranger]:
    for one in (vars(part).get("processor"), part._modules.get("processor")):
        if one is not None and is_foreign(type(one)) and (is_plain(one) or isinstance(one, torch.nn.Module)):
            yield _of_processor(one)
    for name in _HOOKS:
        table = getattr(part, name)
        for number, hook in list(table.items()):
            if is_foreign(hook):
                look = functools.partial(reach, hook)
                yield Stranger(f"the hook {_name(hook)}", (hook,), look, (hook,), table, number, part)
    code: Any = type(part).forward
    if is_foreign(code):
        look = functools.partial(reach_of_module, part, code)
        yield Stranger(f"the forward of a {type(part).__name__} ({_name(code)})", (part, code), look, (part, code))
    own = vars(part).get("forward")
    own = own.original if isinstance(own, CallGate) else own
    if own is not None and is_foreign(getattr(own, "__func__", own)) and getattr(own, "__func__", None) is not code:
        look = functools.partial(reach_of_module, part, own)
        yield Stranger(f"the forward of a {type(part).__name__} ({_name(own)})", (part, own), look, (own,))


def _of_processor(processor: Any) -> Stranger:
    name = f"the attention processor {_name(type(processor))}"
    if isinstance(processor, torch.nn.Module):
        look = functools.partial(reach_of_module, processor, type(processor).forward)
    else:
        look = functools.partial(reach, processor)
    return Stranger(name, (processor,), look, (processor,))


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", None) or type(thing).__qualname__)
