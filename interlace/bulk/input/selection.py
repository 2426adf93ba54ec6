"""Which rows of an input are used: a slice of row numbers, conditions on columns, and a limit."""

import difflib
import operator
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Self

from interlace.errors import InvalidRequestError

_SLICE = re.compile(r"\s*(-?[0-9]{1,18})?\s*:\s*(-?[0-9]{1,18})?\s*(?::\s*([0-9]{1,18})?\s*)?")
_CONDITION = re.compile(r"\s*([^\s!=<>~]+)\s*(==|!=|<=|>=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """`column operator value`: numbers are compared as numbers, everything else as text."""

    column: str
    compare: str
    value: str
    number: float | None  # the value as a number; None where it is text, or quoted

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `InvalidRequestError` for a text that is no condition."""
        found = _CONDITION.fullmatch(text)
        if found is None or not found[3] or found[3][0] in "=<>~":
            expected = "expected COLUMN OPERATOR VALUE, such as 'height >= 512' or 'prompt ~ circle'"
            raise InvalidRequestError(f"--where got {text!r}; {expected} (== != < <= > >= ~)", "where")
        column, compare, value = found.groups()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            return cls(column, compare, value[1:-1], None)
        number = _number(value)
        if number is None and compare in ("<", "<=", ">", ">="):
            raise InvalidRequestError(
                f"--where got {text!r}; {compare} expects a number, or a text in quotes: {column} {compare} '{value}'",
                "where",
            )
        return cls(column, compare, value, number)

    def holds(self, cell: object) -> bool:
        """False for a row without the column, and for a text where a number is asked for."""
        if cell is None:
            return False
        if self.compare == "~":
            return self.value.casefold() in str(cell).casefold()
        if self.number is not None:
            number = _number(cell)
            if number is not None:
                return _COMPARE[self.compare](number, self.number)
            if self.compare not in ("==", "!="):
                return False
        return _COMPARE[self.compare](str(cell), self.value)

    def __str__(self) -> str:
        return f"{self.column} {self.compare} {self.value}"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is used of an input: rows `start:stop:step`, of these the ones that meet `where`, of these so many."""

    start: int = 0  # row numbers count from 0; negative ones from the end
    stop: int | None = None
    step: int = 1
    where: tuple[Condition, ...] = ()
    limit: int | None = None

    @classmethod
    def parse(cls, rows: str | None = None, where: Iterable[str] = (), limit: int | None = None) -> Self:
        """Raises `InvalidRequestError` for what can't be understood."""
        if limit is not None and limit < 1:
            raise InvalidRequestError(f"limit is {limit}; expected at least 1", "limit")
        found = _SLICE.fullmatch(":" if rows is None else rows)
        if found is None or (found[3] and not int(found[3])):
            expected = "expected START:STOP or START:STOP:STEP, such as 0:100, 500: or -10:"
            raise InvalidRequestError(f"--rows got {rows!r}; {expected}", "rows")
        start, stop, step = (int(part) if part else None for part in found.groups())
        conditions = tuple(map(Condition.parse, where))
        return cls(start=start or 0, stop=stop, step=step or 1, where=conditions, limit=limit)

    def check(self, source: str, names: Collection[str]) -> None:
        """Raises `InvalidRequestError` for a condition on a column that the input doesn't have."""
        for condition in self.where:
            if condition.column not in names:
                near = difflib.get_close_matches(condition.column, sorted(names), 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(names))}"
                raise InvalidRequestError(f"--where: {source} has no column {condition.column!r}; {hint}", "where")

    @property
    def counts_from_the_end(self) -> bool:
        return self.start < 0 or (self.stop or 0) < 0

    def bounds(self, count: Callable[[], int]) -> tuple[int, int | None, int]:
        """Start, stop and step, none negative; `count` is asked only where the end matters."""
        if not self.counts_from_the_end:
            return self.start, self.stop, self.step
        return slice(self.start, self.stop, self.step).indices(count())


EVERY_ROW = Selection()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
