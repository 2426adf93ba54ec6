"""Bytes that stay: files replaced whole, and files of JSON lines that only ever end in a whole line."""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO

from interlace.bulk.faults import fault_point

TEMPORARY = ".tmp-"  # row ids never start with a dot
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def replace_file(path: Path, data: bytes | Iterable[bytes], prefix: str = TEMPORARY) -> None:
    """The file is the old one or the whole new one at every moment, also across a power cut."""
    temporary = path.with_name(f"{prefix}{path.name}")
    try:
        with temporary.open("wb") as file:
            for part in [data] if isinstance(data, bytes) else data:
                fault_point("half a file", partial(_half, file, part))
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        fault_point("temporary written")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    fault_point("renamed")


def sync_folder(folder: Path) -> None:
    # Some systems (Windows, a few network mounts) have no way to sync a folder; the rename is atomic there too.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def entries(folder: Path, pattern: str) -> list[Path]:
    """A folder's entries whose names match, sorted. Unlike `glob` it holds no others: there may be millions."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        return sorted(folder / entry.name for entry in found if fnmatchcase(entry.name, pattern))
    return []


def why_not_written(folder: Path, error: OSError) -> str:
    """What to tell a user whose disk did not take something."""
    reason = error.strerror or str(error)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and not folder.is_dir():
        file = next((path for path in (folder, *folder.parents) if path.is_file()), folder)
        return f"{file} is a file; the output needs a folder (--output-dir)"
    if error.errno in _FULL:
        return f"the disk is full: can't write to {folder} ({reason}); make room and run the same command again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"can't write to {folder}: {reason}; make it writable and run the same command again"
    return f"can't write to {folder}: {reason}"


class GrowingFile:
    """A file that bytes are added to. They are whole on disk when `append` returns; where it raises, there are none."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Opens or makes the file; what comes after `length` bytes is cut off."""
        self.path = path
        new = not path.exists()
        self._file = path.open("w+b" if new else "r+b", buffering=0)
        self.length = self._file.seek(0, os.SEEK_END)
        if length is not None and length < self.length:
            self._file.truncate(length)
            self.length = length
        if new:
            sync_folder(path.parent)

    def append(self, data: bytes) -> int:
        """Returns where in the file they went."""
        start = self.length
        try:
            self._file.seek(start)
            fault_point("before a line")
            fault_point("half a line", partial(_half, self._file, data))
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        self.length = start + len(data)
        fault_point("line written")
        return start

    def read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length) or b""

    def close(self) -> None:
        self._file.close()


def _half(file: IO[bytes], data: bytes) -> None:
    file.write(data[: len(data) // 2])
    file.flush()


def json_line(record: Mapping[str, object]) -> bytes:
    # A file name that is no text (a lone surrogate) is written as the escape that JSON has for it.
    return (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def json_lines(path: Path) -> Iterator[tuple[int, bytes, object]]:
    """Start, bytes and value of every line; the value is None where a line is torn or not JSON."""
    if not path.exists():
        return
    start = 0
    with path.open("rb") as file:
        for line in file:
            value = None
            with contextlib.suppress(ValueError):
                value = json.loads(line) if line.endswith(b"\n") else None
            yield start, line, value
            start += len(line)
