"""Prompts on the command line add to a folder: their numbers go on where those that are there end.

A command that was cut off goes on with its own numbers: they are kept in `unfinished.json` until all of it is there.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interlace.bulk.input.rows import Row, Rows
from interlace.bulk.output.disk import entries, replace_file
from interlace.bulk.output.failures import read_failures
from interlace.bulk.output.keys import ModelId, request_key
from interlace.bulk.output.manifest import FAILURES, MANIFEST, read_lines
from interlace.bulk.output.parts import parts
from interlace.bulk.output.replaced import shortened

UNFINISHED = "unfinished.json"
_NUMBER = re.compile(r"(\d{6,})(_\d{2,})?")


@dataclass(frozen=True)
class Addition:
    """The numbers of one command's rows: `count` from `first` on. `key` says which command it is."""

    first: int
    count: int
    key: str


def numbered(rows: Rows, folder: Path, model: ModelId, base_seed: int, *, write: bool) -> Rows:
    """The rows with numbers that nothing in the folder has; or, where this very command was cut off, with its own.

    With `write` the numbers are kept for a command that is cut off, and what is there already is told.
    Raises OSError where the folder does not take it.
    """
    unfinished = _read(folder)
    for addition in unfinished:
        again = replace(rows, first=addition.first)
        if _key(again, model, base_seed) == addition.key:
            return again
    there = list(_there(folder))
    reserved = [addition.first + addition.count for addition in unfinished]
    first = max([0, *reserved, *(number + 1 for name, _ in there if (number := _number(name)) is not None)])
    rows = replace(rows, first=first)
    count = sum(isinstance(row, Row) for row in rows)
    if write and count:
        _tell(rows, there, folder)
        count = sum(1 for _ in rows)
        _write(folder, [*unfinished, Addition(first, count, _key(rows, model, base_seed))])
    return rows


def forget(rows: Rows, folder: Path) -> None:
    """The command is done: the same one again is a new one. Raises OSError."""
    _write(folder, [addition for addition in _read(folder) if addition.first != rows.first])


def _key(rows: Rows, model: ModelId, base_seed: int) -> str:
    digest = hashlib.sha256()
    for row in rows:
        jobs = row.jobs(base_seed) if isinstance(row, Row) else ()
        digest.update("".join(request_key(job, model) for job in jobs).encode() + b"\n")
    return digest.hexdigest()[:16]


def _there(folder: Path) -> Iterator[tuple[str, str | None]]:
    """The names (and prompts, where they are told) of what is in the folder, is listed, or has failed."""
    for path in (folder / MANIFEST, *parts(folder, MANIFEST)):
        for _, record in read_lines(path, torn_lines_are_news=False):
            yield Path(record["file"]).stem, record.get("prompt")
    for path in (folder / FAILURES, *parts(folder, FAILURES)):
        yield from ((str(line["name"]), None) for line in read_failures(path) if "name" in line)
    yield from ((path.stem, None) for path in entries(folder, "[0-9]*.*"))


def _number(name: str) -> int | None:
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else None


def _tell(rows: Rows, there: list[tuple[str, str | None]], folder: Path) -> None:
    if rows.first == 0:
        return
    sys.stderr.write(f"{folder} holds pictures already: numbers go on at {rows.first:06d}\n")
    known = {prompt: name for name, prompt in there if prompt is not None}
    for row in rows:
        if isinstance(row, Row) and row.prompt in known:
            there_as = f"{shortened(row.prompt)} is there as {known[row.prompt]}"
            sys.stderr.write(f"{there_as}; {row.id} is another variation, with a seed of its own\n")


def _read(folder: Path) -> list[Addition]:
    try:
        found: Any = json.loads((folder / UNFINISHED).read_bytes())
        return [Addition(int(one["first"]), int(one["count"]), str(one["key"])) for one in found]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _write(folder: Path, additions: list[Addition]) -> None:
    path = folder / UNFINISHED
    if additions:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps([vars(addition) for addition in additions]) + "\n").encode())
    else:
        path.unlink(missing_ok=True)
