"""The adapter layers of one module: which adapters they hold, and what they are told for a forward."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper

from interlace.engine.adapters.kinds import kind_of

Selection = tuple[tuple[str, float], ...]  # names of adapters with their weights, in order; empty: none


class AdapterLayers:
    """The layers of `module` that peft put in. Made anew when adapters are loaded or removed."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)]
        self._names = [adapters_of(layer) for layer in self.layers]
        saved = (part for part in module.modules() if isinstance(part, ModulesToSaveWrapper))
        self._saved = {name for part in saved for name in part.modules_to_save}
        self._mixable: dict[str, bool] = {}

    @property
    def names(self) -> frozenset[str]:
        """Every adapter that has weights here."""
        return frozenset[str]().union(*self._names, self._saved)

    @property
    def active(self) -> bool:
        """Whether the pipeline's owner has an adapter active here."""
        pairs = zip(self.layers, self._names, strict=True)
        return any(not layer.disable_adapters and names.intersection(layer.active_adapters) for layer, names in pairs)

    def of(self, name: str) -> list[BaseTunerLayer]:
        """The layers that an adapter has weights in."""
        return [layer for layer, names in zip(self.layers, self._names, strict=True) if name in names]

    def mixable(self, name: str) -> bool:
        """Whether an adapter's rows may share a forward with other rows, in all of its layers."""
        if name not in self._mixable:
            self._mixable[name] = name not in self._saved and all(_mixes(layer, name) for layer in self.of(name))
        return self._mixable[name]

    @contextmanager
    def told(self, selection: Selection) -> Iterator[None]:
        """peft's own forward with these adapters and no others, as `set_adapters` would have it; then as it was."""
        names = [name for name, _ in selection]
        before = [
            (layer, layer._active_adapter, layer._disable_adapters, dict(_scaling(layer))) for layer in self.layers
        ]
        try:
            for layer in self.layers:  # past Module's own __setattr__: that costs, and is others' business
                layer.__dict__["_active_adapter"] = names
                layer.__dict__["_disable_adapters"] = not names
                for name, weight in selection:
                    layer.set_scale(name, weight)
            yield
        finally:
            for layer, active, disabled, scaling in before:
                layer.__dict__["_active_adapter"] = active
                layer.__dict__["_disable_adapters"] = disabled
                _scaling(layer).update(scaling)


def _scaling(layer: BaseTunerLayer) -> dict[str, float]:
    return getattr(layer, "scaling", None) or {}


def adapters_of(layer: BaseTunerLayer) -> frozenset[str]:
    """The names of the adapters that a layer holds."""
    parts: Sequence[str] = layer.adapter_layer_names
    return frozenset(name for part in parts for name in getattr(layer, part, ()))


def _mixes(layer: BaseTunerLayer, name: str) -> bool:
    kind = kind_of(layer)
    return kind is not None and kind.mixable(layer, name)
