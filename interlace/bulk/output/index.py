"""Which images the manifests tell of, and as much of each line as decides what is done already.

Some 150 bytes an image, so that millions fit anywhere: whoever wants a line's other words has them read again.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from interlace.bulk.output.manifest import Record, Records, image_name, read_lines

_KEY_BITS, _START_BITS = 64, 48
_KIND = _KEY_BITS + _START_BITS  # an entry is a whole number: the kind of its line, where that starts, its request key


class _FileKind(NamedTuple):
    """What the lines of many images have in common."""

    path: Path
    before: str  # of the image's name in its file's
    after: str
    encoding: str
    is_in_shard: bool
    is_trusted: bool


class Entry(NamedTuple):
    """What is kept of an image's line."""

    file: str
    encoding: str
    is_in_shard: bool
    key: int  # as `key_digest` makes it of the request key


class Index:
    """Entries by image name, in the order in which the names came up. Names are kept as 128-bit hashes."""

    def __init__(self) -> None:
        self._entries: dict[int, int] = {}
        self._kinds: list[_FileKind] = []
        self._numbers: dict[_FileKind, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _name_digest(name) in self._entries

    def get(self, name: str) -> Entry | None:
        entry = self._entries.get(_name_digest(name))
        if entry is None:
            return None
        kind = self._kinds[entry >> _KIND]
        file = f"{kind.before}{name}{kind.after}"
        return Entry(file, kind.encoding, kind.is_in_shard, entry & ((1 << _KEY_BITS) - 1))

    def add(self, name: str, record: Mapping[str, object], path: Path, start: int, *, is_trusted: bool = True) -> None:
        """The line at `start` of a file says this of the image; what was said before does not count."""
        before, _, after = str(record["file"]).rpartition(name)
        encoding = str(record.get("encoding", "png"))
        kind = _FileKind(path, before, after, encoding, "shard" in record, is_trusted)
        self._entries[_name_digest(name)] = (
            self._number(kind) << _KIND | start << _KEY_BITS | key_digest(record.get("request_key"))
        )

    def read(
        self,
        path: Path,
        is_trusted: Callable[[Record], bool] = lambda record: True,
        is_wanted: Callable[[str], bool] = lambda row_id: True,
        *,
        torn_lines_are_news: bool = True,
    ) -> None:
        """Adds the lines of one file, of the rows that are wanted."""
        for start, record in read_lines(path, torn_lines_are_news=torn_lines_are_news):
            name = image_name(record)
            if name and is_wanted(str(record.get("id", name))):
                self.add(name, record, path, start, is_trusted=is_trusted(record))

    def merge(self, newer: "Index", is_right: Callable[[Record, Record], bool] | None = None) -> None:
        """Adds what another one has. `is_right(ours, newer)` says whether the newer of two lines on one image counts.

        Raises OSError where a file was changed meanwhile.
        """
        numbers = [self._number(kind) for kind in newer._kinds]
        for digest, entry in newer._entries.items():
            entry = numbers[entry >> _KIND] << _KIND | entry & ((1 << _KIND) - 1)
            ours = self._entries.get(digest)
            if ours is None or is_right is None or is_right(self._line(digest, ours), self._line(digest, entry)):
                self._entries[digest] = entry

    def drop_distrusted(self) -> int:
        """Returns how many there were."""
        dropped = [digest for digest, entry in self._entries.items() if not self._kinds[entry >> _KIND].is_trusted]
        for digest in dropped:
            del self._entries[digest]
        return len(dropped)

    def settle(self, path: Path) -> None:
        """All lines are in this one file by now, in the order of the index."""
        kinds = [self._number(kind._replace(path=path)) for kind in list(self._kinds)]
        start = 0
        with path.open("rb") as file:
            for (digest, entry), line in zip(self._entries.items(), file, strict=True):
                key = entry & ((1 << _KEY_BITS) - 1)
                self._entries[digest] = kinds[entry >> _KIND] << _KIND | start << _KEY_BITS | key
                start += len(line)

    def record(self, name: str) -> Record:
        """All that the line on an image says. Raises OSError where it isn't there any more."""
        digest = _name_digest(name)
        return self._line(digest, self._entries[digest])

    def records(self, names: Iterable[str] | None = None) -> Records:
        """The lines of those of these images that are there, or of all, to be read when they are asked for."""
        if names is None:
            return self._records(self._entries.values())
        found = (self._entries.get(_name_digest(name)) for name in names)
        return self._records(entry for entry in found if entry is not None)

    def records_sorted(self, names: Iterable[str]) -> Records:
        """The lines of all images: first those of `names`, in that order."""
        left = dict(self._entries)
        first = (entry for name in names if (entry := left.pop(_name_digest(name), None)) is not None)
        return self._records(chain(first, left.values()))

    def records_in_shards(self) -> Records:
        """The lines of the images that are in tar shards, and believed to be."""
        kinds = [kind.is_in_shard and kind.is_trusted for kind in self._kinds]
        return self._records(entry for entry in self._entries.values() if kinds[entry >> _KIND])

    def _records(self, entries: Iterable[int]) -> Records:
        paths = list(dict.fromkeys(kind.path for kind in self._kinds))
        numbers = [paths.index(kind.path) for kind in self._kinds]
        mask = (1 << _START_BITS) - 1
        return Records(paths, ((numbers[entry >> _KIND], entry >> _KEY_BITS & mask) for entry in entries))

    def _line(self, digest: int, entry: int) -> Record:
        (record,) = self._records([entry])
        if _name_digest(image_name(record)) != digest:
            raise OSError("another process has changed a manifest")
        return record

    def _number(self, kind: _FileKind) -> int:
        number = self._numbers.setdefault(kind, len(self._kinds))
        if number == len(self._kinds):
            self._kinds.append(kind)
        return number


def key_digest(request_key: object) -> int:
    return 0 if request_key is None else _digest(str(request_key), _KEY_BITS)


def _name_digest(name: str) -> int:
    return _digest(name, 128)


def _digest(text: str, bits: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=bits // 8).digest(), "big")
