"""The scales of IP-Adapters as one request has them: state that each row of a forward may have its own.

Knows attention processors that multiply by their `scale` what they add; a table names them (`calls/rules.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from interlace.engine.calls.rules import SCALED_BY_ROW
from interlace.engine.pipeline.variants.recorder import Roots
from interlace.engine.pipeline.variants.state import Name
from interlace.engine.pipeline.variants.variant import Variant, Wardrobe

Scale = float | tuple[float, ...]  # of one processor; several: one for each IP-Adapter that is loaded


@dataclass(frozen=True)
class Scales:
    """Of one call's module, by processor. Equal where the values are."""

    values: tuple[Scale, ...]
    processors: tuple[torch.nn.Module, ...] = field(compare=False, repr=False)
    are_owners: bool = field(compare=False)  # whether the request has changed none of them


class RowScales:
    """The processors of one pipeline that have such scales. `keys` are the places where a variant may hold them."""

    def __init__(self, parts: Iterable[tuple[torch.nn.Module, Roots]] = ()) -> None:
        self._processors: dict[int, list[torch.nn.Module]] = {}  # by the component's id
        keys = set()
        for part, roots in parts:
            if type(part).__name__ in SCALED_BY_ROW:
                keys |= {Name(vars(part), "scale").key, (id(vars(part).get("scale")), None)}
                for component in roots:
                    self._processors.setdefault(component, []).append(part)
        self.keys = frozenset(keys)

    def of(self, component: int, variant: Variant, wardrobe: Wardrobe) -> Scales | None:
        """Those of a request with `variant`; None where there are none, or one is more than numbers."""
        processors = self._processors.get(component)
        if processors is None:
            return None
        values = [_number(_scale(one, variant, wardrobe)) for one in processors]
        known = tuple(value for value in values if value is not None)
        if len(known) < len(values):
            return None
        return Scales(known, tuple(processors), variant.items.keys().isdisjoint(self.keys))


def _scale(processor: torch.nn.Module, variant: Variant, wardrobe: Wardrobe) -> Any:
    place = Name(vars(processor), "scale")
    if place.key in variant.items:
        return variant.items[place.key].value
    owners = wardrobe.owners(place)
    contents = (id(owners), None)
    if isinstance(owners, list) and contents in variant.items:
        return variant.items[contents].value
    return wardrobe.underneath(contents, owners)


def _number(scale: Any) -> Scale | None:
    if isinstance(scale, list):
        return tuple(map(float, scale)) if all(isinstance(one, (int, float)) for one in scale) else None
    return float(scale) if isinstance(scale, (int, float)) else None
