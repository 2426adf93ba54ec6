"""Reads prompt files record by record: JSONL, JSON, CSV, TSV and plain text, streamed, with line numbers.

Knows the file formats and nothing of what the columns mean. A record that can't be read does not stop the others.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace.errors import InvalidRequestError

_CHUNK = 1 << 16
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Record:
    """One entry of a file: its columns, or the reason why it could not be read."""

    where: str  # file:line
    columns: Mapping[str, Any] | None = None
    error: str | None = None


def check_file(path: Path) -> None:
    """Raises `InvalidRequestError` for a file that is missing or of a format that isn't known."""
    if path.suffix.lower() not in _READERS:
        got = f"has the extension {path.suffix!r}" if path.suffix else "has no extension"
        raise InvalidRequestError(f"{path} {got}; expected one of {', '.join(sorted(_READERS))}", "prompts_file")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise InvalidRequestError(f"the prompts file {path} {what}", "prompts_file")


def read_records(path: Path) -> Iterator[Record]:
    """Yields the records of a file in order. Raises `InvalidRequestError` for a file that can't be read."""
    check_file(path)
    try:
        yield from _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise InvalidRequestError(f"can't read {path}: {error.strerror or error}", "prompts_file") from error


def _lines(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each line that isn't blank, and its place; None for a line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield f"{path}:{number}", None
                continue
            if text:
                yield f"{path}:{number}", text


def _read_text(path: Path) -> Iterator[Record]:
    for where, line in _lines(path):
        yield Record(where, error="the line is not UTF-8 text") if line is None else Record(where, {"prompt": line})


def _read_jsonl(path: Path) -> Iterator[Record]:
    for where, line in _lines(path):
        if line is None:
            yield Record(where, error="the line is not UTF-8 text")
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Record(where, error=f"not valid JSON: {error}")
        else:
            yield _from_json(where, value)


def _from_json(where: str, value: object) -> Record:
    if isinstance(value, str):
        return Record(where, {"prompt": value})
    if isinstance(value, dict):
        return Record(where, value)
    return Record(where, error=f"got {type(value).__name__}; expected an object with a prompt, or a text")


class _Window:
    """The part of a text file that a JSON decoder looks at; it grows until a whole value is in it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open(encoding="utf-8-sig", errors="surrogateescape")
        self.text, self.line, self.at_end = "", 1, False

    def grow(self) -> bool:
        chunk = self.file.read(max(_CHUNK, len(self.text)))
        self.text += chunk
        self.at_end = not chunk
        return not self.at_end

    def drop(self, count: int) -> None:
        self.line += self.text.count("\n", 0, count)
        self.text = self.text[count:]

    def skip(self, characters: str) -> str:
        """Drops leading `characters`; returns the next one, or "" at the end of the file."""
        while True:
            self.drop(len(self.text) - len(self.text.lstrip(characters)))
            if self.text or not self.grow():
                return self.text[:1]

    def value(self) -> Any:
        """Takes one JSON value. A number may go on past the window, so a value that ends with it is read again."""
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self.text)
            except json.JSONDecodeError:
                if not self.grow():
                    raise
                continue
            if end < len(self.text) or not self.grow():
                self.drop(end)
                return value


def _read_json(path: Path) -> Iterator[Record]:
    """An array of rows, or rows one after the other. After a syntax error the rest can't be told apart."""
    window = _Window(path)
    with window.file:
        is_array = window.skip(_SPACE) == "["
        window.drop(int(is_array))
        while (following := window.skip(_SPACE + ",")) not in ("", "]"):
            where = f"{path}:{window.line}"
            try:
                value = window.value()
            except (ValueError, RecursionError) as error:
                yield Record(where, error=f"not valid JSON: {error}; nothing after this place was read")
                return
            yield _from_json(where, value)
        if is_array and following != "]":
            yield Record(f"{path}:{window.line}", error="the JSON array does not end with ]: the file was cut off")


def _read_table(delimiter: str) -> Callable[[Path], Iterator[Record]]:
    def read(path: Path) -> Iterator[Record]:
        # The limit guards parsers of foreign uploads; a prompt file is the user's own.
        csv.field_size_limit(1 << 30)
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(rows, [])]
            if len(set(header)) < len(header):
                raise InvalidRequestError(f"{path}:1: a column is named twice in {header}", "prompts_file")
            yield from _table_rows(path, header, rows)

    return read


def _table_rows(path: Path, header: list[str], rows: Any) -> Iterator[Record]:
    while True:
        where = f"{path}:{rows.line_num + 1}"
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(where, error=f"not valid CSV: {error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            got = f"{len(cells)} cells under {len(header)} column names"
            yield Record(where, error=f"{got}; a text with the separator in it must stand in double quotes")
            continue
        filled = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
        yield Record(where, filled)


def table_header(path: Path) -> list[str] | None:
    """The column names of a CSV or TSV file; None for other formats."""
    delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    if delimiter is None:
        return None
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table(","),
    ".tsv": _read_table("\t"),
    ".txt": _read_text,
}
