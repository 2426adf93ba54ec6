"""What every reader yields (`Record`), and an input as a whole (`Source`): its records, again and again, in order."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

Wanted = Collection[str] | None  # the columns that are needed; None for all


@dataclass(frozen=True)
class Record:
    """One entry of an input: its columns, or the reason why it could not be read."""

    where: str  # file:line, or file:row counted from 1 where a format has no lines
    columns: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """An input that can be gone through many times and is never held in memory."""

    name: str  # for messages: a path, or a dataset's id
    read: Callable[[Wanted], Iterator[Record]]
    header: tuple[str, ...] | None = None  # the column names, where the format tells them beforehand
    has_other_columns: bool = False  # data sets carry columns that are not for us; a prompt file's are typos
    folder: Path = Path()  # what relative paths in its cells are relative to


def is_nan(value: object) -> bool:
    return isinstance(value, Real) and value != value


def without_nan(columns: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a data set: tables of numbers in many tools write NaN where a cell has no value."""
    return {name: None if is_nan(cell) else cell for name, cell in columns.items()}
