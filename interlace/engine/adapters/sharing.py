"""Which calls may share a forward where requests have adapters, and what the layers are told for it. One an engine.

A forward whose requests have the same adapters is peft's own. One with different ones is mixed where all of them are
plain, and is checked like any fusion; an adapter that was seen to come out wrong keeps its forwards to itself.
"""

import contextlib
import weakref
from collections.abc import Hashable, Mapping, Sequence

import torch

from interlace.engine.adapters.layers import AdapterLayers, Selection
from interlace.engine.adapters.mixing import Mixer
from interlace.engine.adapters.scales import scaled
from interlace.engine.calls.call import ModuleCall
from interlace.engine.pipeline.ambient import eager
from interlace.python.recent import Recent

_MOST = 32  # variants of a module whose layers are remembered


class _AdapterPart:
    """One module's layers, as requests of one variant have them."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.layers = AdapterLayers(module)
        self.mixer = Mixer(self.layers)
        self.apart: set[str] = set()  # adapters that came out wrong when mixed
        self.scales_apart = False  # so did scales of IP-Adapters

    def mixable(self, selection: Selection) -> bool:
        return all(name not in self.apart and self.layers.mixable(name) for name, _ in selection)


class Adapters:
    """Puts a request's adapters on its calls. `mixing` False: requests with different ones never share.

    In the engine's thread, with the variant of the calls' requests on: requests that run while an adapter is loaded go
    on without it, so layers are known by module and variant.
    """

    def __init__(self, *, mixing: bool = True) -> None:
        self._mixing = mixing
        self._parts: weakref.WeakKeyDictionary[torch.nn.Module, Recent[Hashable, _AdapterPart]]
        self._parts = weakref.WeakKeyDictionary()

    def changed(self) -> None:
        """Adapters were loaded or removed."""
        self._parts.clear()

    def put_on(self, call: ModuleCall, wanted: Mapping[str, float] | None) -> None:
        """Note on a call what its request wants; None: as the pipeline's owner has it."""
        if wanted is None:
            return
        layers = self._part(call).layers
        named = ((name, float(weight)) for name, weight in wanted.items() if name in layers.names)
        # A plain adapter of weight 0 adds nothing; DoRA still scales what is there.
        call.adapters = tuple((name, weight) for name, weight in named if weight or not layers.mixable(name))

    def key(self, call: ModuleCall) -> Hashable:
        """What of a call's adapters, and of IP-Adapters' scales, must be equal to share; None where nothing must."""
        if call.scales is not None and not (self._mixing and not self._part(call).scales_apart):
            return self._key(call), call.scales
        return self._key(call)

    def _key(self, call: ModuleCall) -> Hashable:
        if call.adapters is None:
            return "owner" if self._part(call).layers.active else None
        if self._mixing and self._part(call).mixable(call.adapters):
            return None
        return call.adapters or None

    def groups(self, calls: Sequence[ModuleCall]) -> list[list[int]]:
        """Places of the calls that may run together now: an adapter may have been set apart since they were queued."""
        found: dict[Hashable, list[int]] = {}
        for place, call in enumerate(calls):
            found.setdefault(self.key(call), []).append(place)
        return list(found.values())

    def within(self, calls: Sequence[ModuleCall]) -> contextlib.AbstractContextManager[object]:
        """The layers as the forward of these calls, one behind the other, needs them."""
        first, mixed = calls[0], is_mixed(calls)
        if not mixed and first.adapters is None and first.scales is None:
            return contextlib.nullcontext()
        part, stack = self._part(first), contextlib.ExitStack()
        if mixed:
            stack.enter_context(eager(first.target.module))
        if differ(calls):
            rows = [call.rows for call in calls]
            stack.enter_context(part.mixer.mixed([call.adapters or () for call in calls], rows))
        elif first.adapters is not None:
            stack.enter_context(part.layers.told(first.adapters))
        if first.scales is not None:
            stack.enter_context(scaled(calls))
        return stack

    def set_apart(self, calls: Sequence[ModuleCall], proven: frozenset[str]) -> str:
        """The adapters in a mixed forward that came out wrong, but for proven ones, are not mixed again; nor are scales
        of IP-Adapters, where these were mixed. Returns what they are in words."""
        part, said = self._part(calls[0]), []
        if any(call.scales != calls[0].scales for call in calls):
            part.scales_apart = True
            said.append("scales of IP-Adapters")
        if differ(calls):
            names = adapters_in(calls)
            wrong = names - proven or names
            part.apart |= wrong
            said.append(f"the adapters {', '.join(sorted(wrong))}")
        return " and ".join(said)

    def _part(self, call: ModuleCall) -> _AdapterPart:
        module = call.target.module
        if (parts := self._parts.get(module)) is None:
            parts = self._parts[module] = Recent(_MOST)
        if (part := parts.get(call.wears)) is None:
            part = parts[call.wears] = _AdapterPart(module)
        return part


def is_mixed(calls: Sequence[ModuleCall]) -> bool:
    """Whether calls differ in their adapters, or in the scales of IP-Adapters."""
    return differ(calls) or any(call.scales != calls[0].scales for call in calls[1:])


def differ(calls: Sequence[ModuleCall]) -> bool:
    """Whether calls differ in their adapters."""
    return any((call.adapters or ()) != (calls[0].adapters or ()) for call in calls[1:])


def adapters_in(calls: Sequence[ModuleCall]) -> frozenset[str]:
    """The names of all adapters of some calls."""
    return frozenset(name for call in calls for name, _ in call.adapters or ())
