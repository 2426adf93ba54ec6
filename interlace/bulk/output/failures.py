"""The list of what could not be made, why, and whether trying again may help. Knows nothing of engines and services.

A line stays listed until its image is made, also when a run is killed: `--retry-failed` runs what is listed.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace.bulk.input.rows import BadRow, Job, Row
from interlace.bulk.output.disk import GrowingFile, json_line, json_lines, replace_file
from interlace.bulk.output.manifest import FAILURES
from interlace.bulk.output.parts import parts, remove_parts
from interlace.errors import AbortedError, DeadlineExceededError, EngineClosedError, EngineDeadError

_NEVER = (EngineDeadError, EngineClosedError, AbortedError, DeadlineExceededError)
_OUT_OF_MEMORY = "OutOfMemoryError"  # torch's, by name: this file has no torch


class Failures:
    """A file of failures, one line a row or image; a later line for the same one counts."""

    def __init__(self, path: Path, *, empty: bool = False) -> None:
        """Keeps what earlier runs listed, unless `empty`. Raises OSError."""
        self._path = path
        self._lines: dict[str, dict[str, Any]] = {} if empty else {_key(line): line for line in read_failures(path)}
        self._earlier = set(self._lines)
        self._rewrite()
        self._file = GrowingFile(path)

    def add(self, where: Job | BadRow, error: str, kind: str, attempts: int = 1) -> None:
        """The line is on disk when this returns. Raises OSError."""
        if isinstance(where, Job):
            line = {"id": where.row_id, "index": where.index, "name": where.name, "where": where.where}
        else:
            line = {"id": where.id, "where": where.where}
        line |= {"prompt": where.prompt, "error": error, "type": kind, "attempts": attempts}
        self._lines[_key(line)] = line
        self._earlier.discard(_key(line))
        self._file.append(json_line(line))

    def lines(self) -> list[dict[str, object]]:
        return list(self._lines.values())

    def forget(self, name: str) -> None:
        """This image is made."""
        self._lines.pop(name, None)

    def forget_earlier(self, made: Container[str] | None = None) -> None:
        """What earlier runs listed: all of it, or what is `made` by now."""
        for key in list(self._earlier):
            if made is None or key in made:
                self._lines.pop(key, None)
                self._earlier.discard(key)

    def close(self) -> None:
        """Leaves a file that lists each failure once. Raises OSError."""
        self._file.close()
        self._rewrite()

    def _rewrite(self) -> None:
        data = b"".join(map(json_line, self._lines.values()))
        if not self._path.exists() or self._path.read_bytes() != data:
            replace_file(self._path, data)


def read_failures(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a list of failures."""
    return (line for _, _, line in json_lines(path) if isinstance(line, dict) and ("name" in line or "where" in line))


def _key(line: Mapping[str, Any]) -> str:
    return str(line["name"]) if "name" in line else str(line["where"])


@dataclass(frozen=True)
class FailedRows:
    """The rows of an input whose ids are listed. All rows are read, so that a disputed id is whose it always was."""

    rows: Iterable[Row | BadRow]
    ids: frozenset[str]

    def __iter__(self) -> Iterator[Row | BadRow]:
        return (row for row in self.rows if row.id in self.ids)


def failed_rows(rows: Iterable[Row | BadRow], folder: Path) -> FailedRows:
    """The rows that a folder's lists of failures name."""
    listed = [read_failures(path) for path in (folder / FAILURES, *parts(folder, FAILURES))]
    return FailedRows(rows, frozenset(str(line["id"]) for lines in listed for line in lines if line.get("id")))


def gather_failures(folder: Path, known: Iterable[str] | None = None) -> None:
    """Puts all parts into the list of failures, of `known` images where these are given. Needs the folder alone.

    Rows that can't be used are left out of parts: whoever goes through the input finds them again.
    """
    lines = [line for path in parts(folder, FAILURES) for line in read_failures(path) if "name" in line]
    if not lines and known is None:
        return
    lines = [*read_failures(folder / FAILURES), *lines]
    if known is not None:
        listed = {line["name"] for line in lines if "name" in line}
        listed = listed.intersection(known) if listed else listed
        lines = [line for line in lines if line.get("name") in listed]
    replace_file(folder / FAILURES, b"".join(map(json_line, lines)))
    remove_parts(folder, FAILURES)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may go well later. An error may say so itself, by `transient`."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        own = getattr(cause, "transient", None)
        if own is not None:
            return bool(own)
        if isinstance(cause, _NEVER):
            return False
        if isinstance(cause, (MemoryError, ConnectionError, TimeoutError)) or type(cause).__name__ == _OUT_OF_MEMORY:
            return True
        cause = cause.__cause__
    return False
