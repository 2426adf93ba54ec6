"""Tables as text: CSV and TSV with a line of column names."""

import csv
import re
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from interlace.bulk.input.formats.encodings import encoding_of
from interlace.bulk.input.formats.record import Record
from interlace.errors import InvalidRequestError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHERS = ";\t|,"  # spreadsheets of half the world write semicolons
_QUOTED = re.compile(r'"[^"]*"')
_MAX_CELL = 1 << 28  # characters; an image may be in a cell, a quote that is never closed must not fill the memory


def table_header(path: Path) -> tuple[str, ...]:
    """The column names. Raises `InvalidRequestError` where the first line can't be read or names a column twice."""
    with _open(path) as file:
        return _header(path, _reader(path, file))


def read_table(path: Path) -> Iterator[Record]:
    """Empty cells are left out."""
    with _open(path) as file:
        rows = _reader(path, file)
        header = _header(path, rows)
        while True:
            where = f"{path}:{rows.line_num + 1}"
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(where, error=f"not valid CSV: {error}")
                continue
            if any(cell.strip() for cell in cells):
                yield _record(where, header, cells)


def _open(path: Path) -> TextIOWrapper:
    return path.open(encoding=encoding_of(path), errors="surrogateescape", newline="")


def _reader(path: Path, file: TextIOWrapper) -> Any:
    csv.field_size_limit(_MAX_CELL)
    first = file.readline()
    file.seek(0)
    return csv.reader(file, delimiter=delimiter_of(first, DELIMITERS[path.suffix.lower()]))


def delimiter_of(header: str, usual: str) -> str:
    """What separates the column names in a table's first line: the usual separator wherever it is one there."""
    outside = _QUOTED.sub("", header)
    return usual if usual in outside else max(_OTHERS, key=outside.count) if any(map(outside.count, _OTHERS)) else usual


def _header(path: Path, rows: Any) -> tuple[str, ...]:
    try:
        header = tuple(name.strip() for name in next(rows, []))
    except csv.Error as error:
        raise InvalidRequestError(f"{path}:1: not valid CSV: {error}", "prompts_file") from error
    if len(set(header)) < len(header):
        raise InvalidRequestError(f"{path}:1: a column is named twice in {list(header)}", "prompts_file")
    return header


def _record(where: str, header: tuple[str, ...], cells: list[str]) -> Record:
    if len(cells) > len(header):
        got = f"{len(cells)} cells under {len(header)} column names"
        return Record(where, error=f"{got}; a text with the separator in it must stand in double quotes")
    return Record(where, {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()})
