"""Where an image's bytes go: a file of its own, or a member of a WebDataset tar shard. Knows nothing of manifests.

`put` returns what a manifest line must say so that `read_stored` finds the bytes again. A shard only grows; while it
is open it has no end-of-archive mark, which tar readers accept.
"""

import contextlib
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from interlace.bulk.disk import TEMPORARY, GrowingFile, replace_file
from interlace.errors import InvalidRequestError

Layout = Literal["files", "webdataset"]
Record = Mapping[str, Any]

_PREFIX = "shard-"
_SHARD = re.compile(r"shard-(\d+-\d+-)?\d{6,}\.tar")  # with or without the tag of a process
_BLOCK = 512  # bytes
_END = bytes(2 * _BLOCK)


class _Span(NamedTuple):
    """Where a sample is in its shard, and where its image's bytes are."""

    start: int
    end: int
    offset: int


class Store(Protocol):
    def put(self, name: str, extension: str, data: bytes, record: Record) -> dict[str, Any]:
        """Stores one image; whole on disk when it returns. Raises OSError where the disk does not take it."""

    def close(self) -> None: ...


class FileStore:
    """One file an image, named after its row. May be called by many threads."""

    def __init__(self, folder: Path, temporary: str = TEMPORARY) -> None:
        self.folder, self._temporary = folder, temporary

    def put(self, name: str, extension: str, data: bytes, record: Record) -> dict[str, Any]:
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
            mine = self._resume(mine, _spans(records))
        self._number = int(mine[-1].stem.removeprefix(self._prefix)) if mine else -1

    def _resume(self, shards: list[Path], spans: Mapping[str, Mapping[str, _Span]]) -> list[Path]:
        while shards and shards[-1].name not in spans:
            shards.pop().unlink()
        if shards:
            kept = spans[shards[-1].name]
            self._count = len(kept)
            self._file = GrowingFile(shards[-1], max(span.end for span in kept.values()))
        return shards

    def put(self, name: str, extension: str, data: bytes, record: Record) -> dict[str, Any]:
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
        place = {"start": start, "end": start + len(sample), "offset": start + len(head)}
        return {"file": f"{name}.{extension}", "shard": self._file.path.name, **place}

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


def discard(folder: Path, record: Record) -> bool:
    """What this line stood for is not wanted any more. False where it stays in its shard until `tidy_shards`."""
    if "shard" in record:
        return False
    (folder / record["file"]).unlink(missing_ok=True)
    return True


def tidy_shards(folder: Path, records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Takes out of all shards what none of the records stands for. Returns the new places, by file name.

    Until the manifest knows the new places, it trusts none of them: a crash here costs time, no image.
    """
    spans = _spans(records)
    moved: dict[str, dict[str, int]] = {}
    for path in list(_shards(folder)):
        kept = spans.get(path.name)
        if not kept:
            path.unlink()
        elif sum(span.end - span.start for span in kept.values()) + len(_END) < path.stat().st_size:
            moved |= _rewrite(path, kept)
    return moved


def _rewrite(path: Path, kept: Mapping[str, _Span]) -> dict[str, dict[str, int]]:
    moved: dict[str, dict[str, int]] = {}
    position = 0
    in_order = sorted(kept.items(), key=lambda item: item[1])
    for file, span in in_order:
        shift = position - span.start
        moved[file] = {"start": position, "end": span.end + shift, "offset": span.offset + shift}
        position = span.end + shift

    def parts() -> Iterator[bytes]:
        with path.open("rb") as old:
            for _, span in in_order:
                old.seek(span.start)
                yield old.read(span.end - span.start)
        yield _END

    replace_file(path, parts())
    return moved


def _spans(records: Iterable[Record]) -> dict[str, dict[str, _Span]]:
    """Where samples begin and end: by shard, by file name."""
    spans: dict[str, dict[str, _Span]] = defaultdict(dict)
    for record in records:
        if "shard" in record:
            spans[record["shard"]][record["file"]] = _Span(record["start"], record["end"], record["offset"])
    return spans


def _shards(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


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
