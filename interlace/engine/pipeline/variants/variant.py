"""What a request's modules have that differs from their owner's state: put on for its forwards, taken off after.

Calls whose variants are equal where their component is concerned may share a forward. Knows nothing of scheduling.
"""

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import torch

from interlace.engine.pipeline.variants.code import is_foreign, may_write
from interlace.engine.pipeline.variants.recorder import EVERYWHERE, Change, Roots
from interlace.engine.pipeline.variants.state import Contents, Name, Place, is_plain, kind_of, meaning, same

_NOTHING = object()


class _Worn(NamedTuple):
    place: Place
    value: Any
    roots: Roots


class Variant:
    """Immutable: by place, the value that is there for one request."""

    __slots__ = ("_keys", "items")

    def __init__(self, items: dict[Hashable, _Worn]) -> None:
        self.items = items
        self._keys: dict[tuple[int, frozenset[Hashable]], tuple[Hashable, Hashable]] = {}

    def key(self, component: int, but: frozenset[Hashable] = frozenset()) -> tuple[Hashable, Hashable]:
        """What must be equal for calls of the component with this id to share, and the same but for numbers.

        None and None where nothing differs; `but`: places that don't count.
        """
        if not self.items:
            return None, None
        known = self._keys.get((component, but))
        if known is None:
            mine = ((key, worn) for key, worn in self.items.items() if _matters(worn, component) and key not in but)
            parts = {key: _meaning(worn.value) for key, worn in mine}
            kinds = frozenset((key, kind_of(value)) for key, value in parts.items())
            known = (Fixed(frozenset(parts.items())), Fixed(kinds)) if parts else (None, None)
            self._keys[component, but] = known
        return known

    def names_apart(self, other: "Variant", component: torch.nn.Module) -> list[str]:
        """The names of what differs between two variants of a component, where it has names."""
        mine, others = (
            {key: _meaning(worn.value) for key, worn in one.items.items() if _matters(worn, id(component))}
            for one in (self, other)
        )
        keys = {key for key in mine.keys() | others.keys() if mine.get(key, _NOTHING) != others.get(key, _NOTHING)}
        places = [(self.items.get(key) or other.items[key]).place for key in keys]
        found = {place.name for place in places if isinstance(place, Name)}
        containers = {id(place.container) for place in places if isinstance(place, Contents)}
        names = (pair for part in component.modules() for pair in vars(part).items())
        return sorted(found | {name.strip("_") for name, value in names if id(value) in containers})

    def keeping(self, changes: Iterable[Change]) -> "Variant":
        """This variant, now that the owner has changed something: the request keeps what was there before."""
        items = dict(self.items)
        for change in changes:
            items.setdefault(change.place.key, _Worn(change.place, change.before, change.roots))
        return Variant(items)

    def __bool__(self) -> bool:
        return bool(self.items)


def _matters(worn: _Worn, component: int) -> bool:
    return component in worn.roots or worn.roots is EVERYWHERE


def _meaning(value: Any) -> Hashable:
    """As `meaning`; but what may remember (a processor that counts) is nobody else's."""
    return id(value) if is_plain(value) and is_foreign(value) and may_write(value) else meaning(value)


class Fixed:
    """A large key whose hash is computed once."""

    __slots__ = ("_hash", "_key")

    def __init__(self, key: Hashable) -> None:
        self._key, self._hash = key, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Fixed) and self._hash == other._hash and self._key == other._key)


NONE = Variant({})


class Wardrobe:
    """Which variant the modules wear now, and what of their owner's lies underneath. One thread at a time."""

    def __init__(self) -> None:
        self.worn = NONE
        self._underneath: dict[Hashable, tuple[Place, Any]] = {}

    def wear(self, variant: Variant) -> None:
        """Put `variant` on in the place of the one that is worn."""
        if variant is self.worn:
            return
        wanted = variant.items
        for key, (place, value) in list(self._underneath.items()):
            if key not in wanted:
                place.write(value)
                del self._underneath[key]
        for key, worn in wanted.items():
            if key not in self._underneath:
                self._underneath[key] = (worn.place, worn.place.read())
            if (before := self.worn.items.get(key)) is None or before.value is not worn.value:
                worn.place.write(worn.value)
        self.worn = variant

    def underneath(self, key: Hashable, now: Any) -> Any:
        """What the owner has at a place, where `now` is there."""
        found = self._underneath.get(key)
        return now if found is None else found[1]

    def owners(self, place: Place) -> Any:
        """What the owner has at `place`, whatever is worn."""
        return self.underneath(place.key, place.read())

    def absorb(self, changes: Iterable[Change]) -> Variant:
        """The variant that is worn after a request's own code made these changes."""
        items = dict(self.worn.items)
        for place, before, roots in changes:
            _, owners = self._underneath.setdefault(place.key, (place, before))
            value = place.read()
            if same(value, owners):
                place.write(owners)
                del self._underneath[place.key]
                items.pop(place.key, None)
            else:
                items[place.key] = _Worn(place, value, roots)
        self.worn = Variant(items) if items else NONE
        return self.worn
