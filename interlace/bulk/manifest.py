"""The manifest: one JSON line a finished image. Keeps in memory where each line is, and reads it when it is asked for.

Knows what a line must have to be trusted; that its image is there is told from outside.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from interlace.bulk.disk import GrowingFile, json_line, json_lines, replace_file

logger = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"
Record = dict[str, Any]


class _Line(NamedTuple):
    start: int
    length: int
    stamp: str


class Manifest(Mapping[str, Record]):
    """The last word on each image, by image name. May be read and added to by many threads."""

    def __init__(self, path: Path, trusted: Callable[[Record], bool], *, empty: bool = False) -> None:
        """Leaves out what is torn, superseded or not `trusted`, also on disk. Raises OSError.

        `superseded` are the lines that were followed by another one for the same image.
        """
        self.path = path
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self.num_distrusted = 0
        num_lines = 0
        for start, line, record in () if empty else json_lines(path):
            num_lines += 1
            if not _is_record(record):
                self.num_distrusted += 1
                logger.warning("%s:%d is not a whole line; its image is made again", path, num_lines)
            elif trusted(record):
                self._lines[image_name(record)] = _Line(start, len(line), stamp(record))
            else:
                self.num_distrusted += 1
                self._lines.pop(image_name(record), None)
        if empty or num_lines != len(self._lines):
            self._replace(lambda record: record)
        self._file = GrowingFile(path)

    def stamp(self, name: str) -> str | None:
        """What tells this image from another of the same name; None where there is none."""
        line = self._lines.get(name)
        return None if line is None else line.stamp

    def append(self, record: Record) -> None:
        """The line is on disk when this returns. Raises OSError; nothing is half written then."""
        data = json_line(record)
        with self._lock:
            self._lines[image_name(record)] = _Line(self._file.append(data), len(data), stamp(record))

    def rewrite(self, change: Callable[[Record], Record]) -> None:
        """Says each image once, as `change` puts it."""
        with self._lock:
            self._file.close()
            try:
                self._replace(change)
            finally:
                self._file = GrowingFile(self.path)

    def _replace(self, change: Callable[[Record], Record]) -> None:
        lines: dict[str, _Line] = {}

        def parts() -> Iterator[bytes]:
            start = 0
            with self.path.open("rb") as old:
                for name, line in self._lines.items():
                    old.seek(line.start)
                    record = change(_parsed(old.read(line.length)))
                    data = json_line(record)
                    lines[name] = _Line(start, len(data), stamp(record))
                    start += len(data)
                    yield data

        replace_file(self.path, parts() if self._lines else b"")
        self._lines = lines

    def close(self) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> Record:
        line = self._lines[name]
        with self._lock:
            return _parsed(self._file.read(line.start, line.length))

    def __contains__(self, name: object) -> bool:
        return name in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._lines))

    def __len__(self) -> int:
        return len(self._lines)


def read_manifest(folder: Path) -> Iterator[Record]:
    """The lines of a folder's manifest, in order. A line that is torn is left out."""
    for number, (_, _, record) in enumerate(json_lines(folder / MANIFEST), 1):
        if _is_record(record):
            yield record
        else:
            logger.warning("%s:%d is not a whole line and is left out", folder / MANIFEST, number)


def image_name(record: Mapping[str, Any]) -> str:
    return Path(record["file"]).stem


def stamp(record: Mapping[str, Any]) -> str:
    """What is there: which request, in which format, in a file or in a shard."""
    place = "webdataset" if "shard" in record else "files"
    return f"{record.get('request_key')} {record.get('encoding', 'png')} {place}"


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("file"), str) and isinstance(value.get("size_bytes"), int)


def _parsed(line: bytes) -> Record:
    import json

    record: Record = json.loads(line)
    return record
