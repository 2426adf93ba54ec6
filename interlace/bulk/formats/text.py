"""Files with one record a line: plain prompts (TXT) and JSON objects (JSONL)."""

import json
from collections.abc import Iterator
from pathlib import Path

from interlace.bulk.formats.record import Record


def read_text(path: Path) -> Iterator[Record]:
    for where, line in _lines(path):
        yield Record(where, error="the line is not UTF-8 text") if line is None else Record(where, {"prompt": line})


def read_jsonl(path: Path) -> Iterator[Record]:
    for where, line in _lines(path):
        if line is None:
            yield Record(where, error="the line is not UTF-8 text")
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
