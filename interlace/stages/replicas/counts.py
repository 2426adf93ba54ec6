"""What replicas count: each by itself, and the counts of several as those of one. Pure; no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal, TypeVar

from interlace.engine.statistics import EngineStatistics

Counts = EngineStatistics | Mapping[str, object]  # of a stage that draws; of any other
T = TypeVar("T")

_FIRST = frozenset({"exclusive", "cost", "memory", "budget"})  # what is the same everywhere, or says nothing summed


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """One replica: `live` requests are there now; `engine` is what it counted since it was last started."""

    replica: int
    state: Literal["up", "starting"]
    pid: int | None
    live: int
    restarts: int
    engine: Counts

    def as_dict(self) -> dict[str, object]:
        """As plain data."""
        return {**vars(self), "engine": plain(self.engine)}


def plain(counts: Counts) -> Mapping[str, object]:
    """As plain data, for JSON."""
    return counts.as_dict() if isinstance(counts, EngineStatistics) else counts


def summed(each: Sequence[T]) -> T | None:
    """The sum of the same counts of several: numbers add up, wherever they stand. None for none."""
    return _sum("", each)


def _sum(name: object, values: Sequence[T]) -> T | None:
    given = [value for value in values if value is not None]
    if not given or name in _FIRST:
        return given[0] if given else None
    first = given[0]
    if is_dataclass(first) and not isinstance(first, type):
        return type(first)(**{f.name: _sum(f.name, [getattr(value, f.name) for value in given]) for f in fields(first)})
    if all(isinstance(value, Mapping) for value in given):
        keys = dict.fromkeys(key for value in given for key in value)  # type: ignore[attr-defined]
        return {key: _sum(key, [value[key] for value in given if key in value]) for key in keys}  # type: ignore
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given):
        return sum(given)  # type: ignore
    return first
