"""Files with one record a line: plain prompts (TXT) and JSON objects (JSONL)."""

import json
from collections.abc import Iterator
from pathlib import Path

from interlace.bulk.input.formats.encodings import not_unicode, numbered_lines
from interlace.bulk.input.formats.record import Record


def read_text(path: Path) -> Iterator[Record]:
    for where, line in _lines(path):
        if isinstance(line, bytes):
            yield Record(where, error=f"the line is {not_unicode(line)}")
        else:
            yield Record(where, {"prompt": line})


def read_jsonl(path: Path) -> Iterator[Record]:
    for where, line in _lines(path):
        if isinstance(line, bytes):
            yield Record(where, error=f"the line is {not_unicode(line)}")
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Record(where, error=f"not valid JSON: {error}")
        else:
            yield from_json(where, value)


def from_json(where: str, value: object) -> Record:
    """An object with columns, or a bare text that is the prompt."""
    if isinstance(value, str):
        return Record(where, {"prompt": value})
    if isinstance(value, dict):
        return Record(where, value)
    return Record(where, error=f"got {type(value).__name__}; expected an object with a prompt, or a text")


def _lines(path: Path) -> Iterator[tuple[str, str | bytes]]:
    return ((f"{path}:{number}", line) for number, line in numbered_lines(path))
