"""Where an image's bytes go: a file of its own, or a member of a WebDataset tar shard. Knows nothing of manifests.

`put` returns what a manifest line must say so that `read_stored` finds the bytes again. A shard only grows; while it
is open it has no end-of-archive mark, which tar readers accept.
"""

import contextlib
import json
import os
import re
import tarfile
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol

from interlace.bulk.output.disk import TEMPORARY, GrowingFile, entries, replace_file
from interlace.errors import InvalidRequestError

Layout = Literal["files", "webdataset"]
Record = Mapping[str, Any]

_PREFIX = "shard-"
_SHARD = re.compile(r"shard-(\d+-\d+-)?\d{6,}\.tar")  # with or without the tag of a process
_BLOCK = 512  # bytes
_END = bytes(2 * _BLOCK)


class Store(Protocol):
    def put(self, name: str, extension: str, data: bytes, record: Record) -> dict[str, object]:
        """Stores one image; whole on disk when it returns. Raises OSError where the disk does not take it."""

    def close(self) -> None: ...


class FileStore:
    """One file an image, named after its row. May be called by many threads."""

    def __init__(self, folder: Path, temporary: str = TEMPORARY) -> None:
        self.folder, self._temporary = folder, temporary

    def put(self, name: str, extension: str, data: bytes, record: Record) -> dict[str, object]:
        file = f"{name}.{extension}"
        replace_file(self.folder / file, data, self._temporary)
        return {"file": file}

    def close(self) -> None:
        pass


class TarStore:
    """Tar shards as the webdataset package reads them: KEY.png, KEY.json and KEY.txt (the prompt) one after another.

    To be called by one thread at a time.
    """

    def __init__(self, folder: Path, shard_size: int, records: Iterable[Record] = (), tag: str | None = None) -> None:
        """Goes on where `records` (all that is trusted) end; what comes after is a torn tail and is cut off.

        With a `tag` this is one of many stores in the folder: it names its shards with it, and leaves those alone
        that are there, since it can't know whose samples they hold.
        """
        if shard_size < 1:
            raise InvalidRequestError(f"the shard size is {shard_size}; expected at least 1 image", "shard_size")
        self.folder, self.shard_size = folder, shard_size
        self._prefix = _PREFIX if tag is None else f"{_PREFIX}{tag}-"
        self._file: GrowingFile | None = None
        mine = sorted(path for path in _shards(folder) if path.stem.removeprefix(self._prefix).isdecimal())
        if tag is None:
            mine = self._resume(mine, records)
        self._number = int(mine[-1].stem.removeprefix(self._prefix)) if mine else -1

    def _resume(self, shards: list[Path], records: Iterable[Record]) -> list[Path]:
        kept: dict[str, tuple[int, int]] = {}  # by shard: how many samples, and where the last one ends
        for record in records if shards else ():
            if "shard" in record:
                count, end = kept.get(record["shard"], (0, 0))
                kept[record["shard"]] = (count + 1, max(end, record["end"]))
        while shards and shards[-1].name not in kept:
            shards.pop().unlink()
        if shards:
            self._count, end = kept[shards[-1].name]
            self._file = GrowingFile(shards[-1], end)
        return shards

    def put(self, name: str, extension: str, data: bytes, record: Record) -> dict[str, object]:
        if self._file is None or self._count >= self.shard_size:
            self._next_shard()
        assert self._file is not None
        key = webdataset_key(name)
        facts = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
        head = _header(f"{key}.{extension}", len(data))
        sample = head + _padded(data) + _member(f"{key}.json", facts)
        sample += _member(f"{key}.txt", str(record.get("prompt") or "").encode())
        start = self._file.append(sample)
        self._count += 1
        span = {"start": start, "end": start + len(sample), "offset": start + len(head)}
        return {"file": f"{name}.{extension}", "shard": self._file.path.name, **span}

    def close(self) -> None:
        """Writes the end-of-archive mark; where the disk does not take it, the shard can be read all the same."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.append(_END)
            self._file.close()
            self._file = None

    def _next_shard(self) -> None:
        self.close()
        self._number, self._count = self._number + 1, 0
        self._file = GrowingFile(self.folder / f"{self._prefix}{self._number:06d}.tar", 0)


def webdataset_key(name: str) -> str:
    """A sample's key ends at the first dot of a member's name, so a dot in an id is written as %2E."""
    return name.replace("%", "%25").replace(".", "%2E")


def read_stored(folder: Path, record: Record) -> bytes:
    """The image that a manifest line stands for. Raises OSError where it is not there."""
    if "shard" not in record:
        return (folder / record["file"]).read_bytes()
    with (folder / record["shard"]).open("rb") as file:
        file.seek(record["offset"])
        return file.read(record["size_bytes"])


def is_stored(folder: Path, record: Record) -> bool:
    """Whether the image of a manifest line is there, as far as can be told without reading it."""
    try:
        if "shard" not in record:
            return (folder / record["file"]).stat().st_size == record["size_bytes"]
        return _is_in_shard(folder / record["shard"], record)
    except (OSError, KeyError, TypeError, ValueError):
        return False


class Moves:
    """Where samples are in the shards that were written anew."""

    def __init__(self) -> None:
        self._starts: dict[str, tuple[array[int], array[int]]] = {}  # by shard: before, in order, and since

    def __bool__(self) -> bool:
        return bool(self._starts)

    def note(self, shard: str, before: "array[int]", since: "array[int]") -> None:
        self._starts[shard] = before, since

    def followed(self, record: Record) -> dict[str, object]:
        """The record with its sample's position of today."""
        before, since = self._starts.get(str(record.get("shard")), ((), ()))
        number = bisect_left(before, record.get("start", -1))
        if number == len(before) or before[number] != record["start"]:
            return dict(record)
        shift = since[number] - before[number]
        return {**record, **{name: record[name] + shift for name in ("start", "end", "offset")}}


def tidy_shards(folder: Path, records: Iterable[Record]) -> Moves:
    """Takes out of all shards what none of the records stands for.

    Until the manifest knows the new positions, it trusts none of them: a crash here costs time, no image.
    """
    moves = Moves()
    shards = list(_shards(folder))
    spans: dict[str, array[int]] = defaultdict(lambda: array("q"))  # by shard: starts and ends in turn
    for record in records if shards else ():
        if "shard" in record:
            spans[record["shard"]].extend((record["start"], record["end"]))
    for path in shards:
        kept = sorted(zip(spans[path.name][::2], spans[path.name][1::2], strict=True))
        if not kept:
            path.unlink()
        elif sum(end - start for start, end in kept) + len(_END) < path.stat().st_size:
            replace_file(path, _parts(path, kept))
            since = accumulate((end - start for start, end in kept[:-1]), initial=0)
            moves.note(path.name, array("q", (start for start, _ in kept)), array("q", since))
    return moves


def _parts(path: Path, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    with path.open("rb") as old:
        for start, end in spans:
            old.seek(start)
            yield old.read(end - start)
    yield _END


def _shards(folder: Path) -> Iterator[Path]:
    return (path for path in entries(folder, f"{_PREFIX}*") if _SHARD.fullmatch(path.name))


def _is_in_shard(path: Path, record: Record) -> bool:
    """The member's header stands right before its bytes, and the whole sample is within the file."""
    stem, extension = record["file"].rsplit(".", 1)
    name = f"{webdataset_key(stem)}.{extension}".encode()
    with path.open("rb", buffering=0) as shard:
        size = shard.seek(0, os.SEEK_END)
        shard.seek(record["offset"] - _BLOCK)
        header = shard.read(_BLOCK)
    # POSIX.1-1988 ustar: the name (its first 100 bytes), the size in octal, the magic word.
    is_named = header[:100] == name[:100].ljust(100, b"\0")
    return is_named and header[124:135] == b"%011o" % record["size_bytes"] and size >= record["end"]


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)  # owner and time stay 0: equal images, equal shards
    member.size = size
    return member.tobuf(format=tarfile.GNU_FORMAT)


def _member(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
