"""JSON files: one array of records, or records one after the other, decoded one at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interlace.bulk.input.formats.encodings import encoding_of
from interlace.bulk.input.formats.record import Record
from interlace.bulk.input.formats.text import from_json

_CHUNK = 1 << 16
_MAX_RECORD = 1 << 28  # characters; a bracket that is never closed must not fill the memory
_SPACE = " \t\r\n"


def read_json(path: Path) -> Iterator[Record]:
    """After a syntax error the rest can't be told apart: it is one bad record, and the last one."""
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
            yield from_json(where, value)
        if is_array and following != "]":
            yield Record(f"{path}:{window.line}", error="the JSON array does not end with ]: the file was cut off")


class _Window:
    """The part of a text file that a JSON decoder looks at; it grows until a whole value is in it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open(encoding=encoding_of(path), errors="surrogateescape")
        self.text, self.line, self.start = "", 1, 0

    def grow(self) -> bool:
        left = self.text[self.start :]
        chunk = self.file.read(max(_CHUNK, len(left))) if len(left) < _MAX_RECORD else ""
        self.text, self.start = left + chunk, 0
        return bool(chunk)

    def drop(self, end: int) -> None:
        """Goes on to `end`, a position in the text."""
        self.line += self.text.count("\n", self.start, end)
        self.start = end

    def skip(self, characters: str) -> str:
        """Drops leading `characters`; returns the next one, or "" at the end of the file."""
        while True:
            end = self.start
            while end < len(self.text) and self.text[end] in characters:
                end += 1
            self.drop(end)
            if end < len(self.text) or not self.grow():
                return self.text[self.start : self.start + 1]

    def value(self) -> Any:
        """Takes one JSON value. A number may go on past the window, so a value that ends with it is read again."""
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.start)
            except json.JSONDecodeError:
                if not self.grow():
                    raise
                continue
            if end < len(self.text) or not self.grow():
                self.drop(end)
                return value
