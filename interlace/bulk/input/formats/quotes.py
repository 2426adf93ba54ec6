"""Double quotes of a table's cells: finds the one that Python's csv reads on past, or that it reads as if it were not
there. A quote in the middle of a cell that starts without one (5" nails) is a character like others."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

UNCLOSED = "a quote is opened here and never closed; double it, or leave it out"
_QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*("?) *')
_SHOWN = 30  # characters of what stands after a closing quote


class OddQuote(NamedTuple):
    """A quoted cell that is not closed, or not where it ends."""

    opened: int  # positions in the row's text
    after: int | None  # what follows its closing quote; None where nothing closes it


def odd_quote(row: str, delimiter: str) -> OddQuote | None:
    """The first such cell of a row, given as its lines stand in the file."""
    ends = delimiter + "\r\n"
    start, to_end = 0, re.compile(f"[{re.escape(ends)}]")
    while start < len(row):
        if row[start] == '"':
            cell = _QUOTED.match(row, start)
            assert cell is not None
            if not cell[1]:
                return OddQuote(start, None)
            if row[cell.end() : cell.end() + 1] not in ends:
                return OddQuote(start, cell.end())
            start = cell.end() + 1
        else:
            end = to_end.search(row, start)
            start = len(row) if end is None else end.end()
    return None


def text_after(row: str, position: int) -> str:
    """What is said of a text that follows a closing quote."""
    shown = row[position:].splitlines()[0][:_SHOWN]
    return f'{shown!r} follows the closing quote of a cell; quotes inside a quoted cell are doubled: "a ""red"" circle"'


class RowLines:
    """A file's lines as csv takes them; keeps those of the row at hand."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.row: list[str] = []
        self.first = 1  # number of the row's first line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.row.append(line)
        return line

    def begin_row(self) -> None:
        self.first += len(self.row)
        self.row.clear()

    def line_of(self, position: int) -> int:
        """The number of the line that a position in the row's text is in."""
        for number, line in enumerate(self.row, self.first):
            if position < len(line):
                return number
            position -= len(line)
        return self.first + len(self.row) - 1
