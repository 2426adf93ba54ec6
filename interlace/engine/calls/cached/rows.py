"""Caches of keys and values that a denoiser fills in its first forward and reads in later ones (reference pictures).

Their tensors hold rows in their first dimension, so they fuse and split like any argument: a shared forward gets a
cache of its own, and what it changed there is given back to each call's. Which classes they are stands in `rules.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from interlace.engine.calls.rules import ROW_CACHES


def is_row_cache(value: object) -> bool:
    """Whether a value is such a cache, or a layer's part of one."""
    return type(value).__name__ in ROW_CACHES


def row_caches(named: Mapping[str, object]) -> dict[str, object]:
    """The caches among a call's arguments, by name."""
    return {name: value for name, value in named.items() if is_row_cache(value)}


class KeptRows:
    """A cache as it was, to go back to."""

    def __init__(self, cache: object) -> None:
        self._states = [(part, _state(part)) for part in _parts(cache)]

    def restore(self) -> None:
        for part, state in self._states:
            part.__dict__.clear()
            part.__dict__.update({name: _own(value) for name, value in state.items()})


def give_back(own: object, new: object) -> None:
    """`own` holds from now on what `new` does."""
    own.__dict__.clear()
    own.__dict__.update(vars(new))


def _parts(cache: Any) -> Iterator[Any]:
    yield cache
    for value in vars(cache).values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if is_row_cache(item):
                yield from _parts(item)


def _state(part: Any) -> dict[str, Any]:
    return {name: _own(value) for name, value in vars(part).items()}


def _own(value: Any) -> Any:
    return list(value) if type(value) is list else value
