"""The manifest: one JSON line a finished image. Here is how its lines are read and written, and which are whole."""

import contextlib
import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

from interlace.bulk.output.disk import TEMPORARY, replace_file

logger = logging.getLogger(__name__)

MANIFEST, FAILURES, SUMMARY = "manifest.jsonl", "failures.jsonl", "summary.json"
Record = dict[str, Any]

_START_BITS = 48  # of a position: where in its file a line starts; above it is the file's number
_MAX_OPEN = 100  # files
_BLOCK = 2**18  # bytes written at once


def read_manifest(folder: Path) -> Iterator[Record]:
    """The lines of a folder's manifest. A line that is torn (the machine went down meanwhile) is left out."""
    return (record for _, record in read_lines(folder / MANIFEST))


def read_lines(path: Path, *, torn_lines_are_news: bool = True) -> Iterator[tuple[int, Record]]:
    """Where each whole line starts, and what it says."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            try:
                record = json.loads(line)
                if not isinstance(record["file"], str) or not isinstance(record["size_bytes"], int):
                    raise TypeError("wrong types")
            except (ValueError, KeyError, TypeError):
                if torn_lines_are_news:
                    logger.warning("%s:%d is not a whole line; its image is made again", path, number)
                continue
            yield start, record


def image_name(record: Mapping[str, Any]) -> str:
    return str(Path(record["file"]).stem)


class Records(Sequence[Record]):
    """Lines that are read when they are asked for, at eight bytes a line. Raises OSError where one is gone by then."""

    def __init__(self, paths: Sequence[Path], positions: Iterable[tuple[int, int]] = ()) -> None:
        """A position is the number of one of the files, and where in it a line starts."""
        self._paths = paths
        self._positions = array("Q", (number << _START_BITS | start for number, start in positions))

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Records": ...
    def __getitem__(self, index: int | slice) -> "Record | Records":
        if isinstance(index, slice):
            part = Records(self._paths)
            part._positions = self._positions[index]
            return part
        position = self._positions[index]
        path = self._paths[position >> _START_BITS]
        with path.open("rb") as file:
            return _parsed(_line_at(file, position, path))

    def __iter__(self) -> Iterator[Record]:
        return map(_parsed, self.lines())

    def lines(self) -> Iterator[bytes]:
        """Just as they are in their files."""
        files: dict[int, BinaryIO] = {}
        with contextlib.ExitStack() as closing:
            for position in self._positions:
                number = position >> _START_BITS
                if number not in files:
                    if len(files) == _MAX_OPEN:
                        files.clear()
                        closing.close()
                    files[number] = closing.enter_context(self._paths[number].open("rb"))
                yield _line_at(files[number], position, self._paths[number])


def _line_at(file: BinaryIO, position: int, path: Path) -> bytes:
    file.seek(position & ((1 << _START_BITS) - 1))
    line = file.readline().removeprefix(b"\xef\xbb\xbf").strip()
    if not (line.startswith(b"{") and line.endswith(b"}")):
        raise OSError(f"another process has changed {path}")
    return line + b"\n"


def _parsed(line: bytes) -> Record:
    try:
        return dict(json.loads(line))
    except ValueError as error:
        raise OSError(f"another process has changed a manifest: {error}") from error


def write_lines(path: Path, lines: Callable[[], Iterable[bytes]], prefix: str = TEMPORARY) -> None:
    """Makes a file say these lines and no others; leaves it alone where it does. They may come from this very file."""
    if not path.exists() or not _says(path, lines()):
        replace_file(path, _blocks(lines()), prefix)


def _says(path: Path, lines: Iterable[bytes]) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(block)) == block for block in _blocks(lines)) and not file.read(1)


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)
