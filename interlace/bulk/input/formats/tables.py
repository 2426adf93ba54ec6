"""Tables as text: CSV and TSV with a line of column names."""

import csv
import re
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from interlace.bulk.input.formats.encodings import encoding_of
from interlace.bulk.input.formats.quotes import UNCLOSED, RowLines, odd_quote, text_after
from interlace.bulk.input.formats.record import Record
from interlace.errors import InvalidRequestError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHERS = ";\t|,"  # spreadsheets of half the world write semicolons
_QUOTED = re.compile(r'"[^"]*"')
_MAX_CELL = 1 << 28  # characters; an image may be in a cell, a quote that is never closed must not fill the memory


def table_header(path: Path) -> tuple[str, ...]:
    """The column names. Raises `InvalidRequestError` where the first line can't be read or names a column twice."""
    with _open(path) as file:
        return _Table(path, file).header()


def read_table(path: Path) -> Iterator[Record]:
    """Empty cells are left out. Raises `InvalidRequestError` for a quote that is never closed: what follows it can't be
    told apart, and all of it may read as one row."""
    with _open(path) as file:
        table = _Table(path, file)
        header = table.header()
        while True:
            try:
                cells = table.row()
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(table.where, error=f"not valid CSV: {error}")
                continue
            if any(cell.strip() for cell in cells):
                yield _record(table, header, cells)


def _open(path: Path) -> TextIOWrapper:
    return path.open(encoding=encoding_of(path), errors="surrogateescape", newline="")


class _Table:
    """The rows of an open file, one after the other."""

    def __init__(self, path: Path, file: TextIOWrapper) -> None:
        csv.field_size_limit(_MAX_CELL)
        first = file.readline()
        file.seek(0)
        self.path, self.lines = path, RowLines(file)
        self.delimiter = delimiter_of(first, DELIMITERS[path.suffix.lower()])
        self._rows = csv.reader(self.lines, delimiter=self.delimiter)

    @property
    def where(self) -> str:
        return f"{self.path}:{self.lines.first}"

    def row(self) -> list[str]:
        """The next row's cells. Raises StopIteration, csv.Error for this row, `InvalidRequestError` for the file."""
        self.lines.begin_row()
        try:
            cells = next(self._rows)
        except csv.Error:
            self._check_quotes()
            raise
        self._check_quotes()
        return cells

    def header(self) -> tuple[str, ...]:
        try:
            header = tuple(name.strip() for name in self.row())
        except StopIteration:
            return ()
        except csv.Error as error:
            raise InvalidRequestError(f"{self.where}: not valid CSV: {error}", "prompts_file") from error
        if len(set(header)) < len(header):
            raise InvalidRequestError(f"{self.where}: a column is named twice in {list(header)}", "prompts_file")
        return header

    def _check_quotes(self) -> None:
        text = "".join(self.lines.row) if any('"' in line for line in self.lines.row) else ""
        odd = odd_quote(text, self.delimiter)
        if odd is None:
            return
        opened = self.lines.line_of(odd.opened)
        if odd.after is None:
            raise InvalidRequestError(f"{self.path}:{opened}: {UNCLOSED}", "prompts_file")
        ended = self.lines.line_of(odd.after)
        if ended > opened:  # most likely the next row's opening quote
            why = f"{UNCLOSED} (the next quote, in line {ended}, ends no cell)"
            raise InvalidRequestError(f"{self.path}:{opened}: {why}", "prompts_file")
        raise csv.Error(text_after(text, odd.after))


def delimiter_of(header: str, usual: str) -> str:
    """What separates the column names in a table's first line: the usual separator wherever it is one there."""
    outside = _QUOTED.sub("", header)
    return usual if usual in outside else max(_OTHERS, key=outside.count) if any(map(outside.count, _OTHERS)) else usual


def _record(table: _Table, header: tuple[str, ...], cells: list[str]) -> Record:
    if len(cells) > len(header):
        got = f"{len(cells)} cells under {len(header)} column names"
        last = table.lines.first + len(table.lines.row) - 1
        if last > table.lines.first:
            got += f", in a row that a quote has go on to line {last}"
        return Record(table.where, error=f"{got}; a text with the separator in it must stand in double quotes")
    named = zip(header, cells, strict=False)
    return Record(table.where, {name: cell.strip() for name, cell in named if cell.strip()})
