"""File names by the million: which are taken, and by which row, in some 30 bytes each; and plain lists of them."""

import io
from array import array
from collections.abc import Iterable, Iterator

_LINE_BITS = 40


class NameList:
    """Names in order, at a byte more than their length. They have no control characters in them."""

    def __init__(self) -> None:
        self._text = io.BytesIO()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        with io.BytesIO(self._text.getvalue()) as lines:
            for line in lines:
                yield line[:-1].decode()

    def append(self, name: str) -> None:
        self._text.write(name.encode() + b"\n")
        self._count += 1


class NameTable:
    """A hash table of two arrays. Names are kept as 64-bit hashes: two of a million agree once in 30 million runs."""

    def __init__(self) -> None:
        self._digests = array("Q", bytes(8 * 1024))  # 0 is a free slot
        self._origins = array("Q", bytes(8 * 1024))
        self._files: list[str] = []
        self._count = 0

    def claim(self, names: Iterable[str], where: str) -> tuple[str, str] | None:
        """Takes all names for the row at `where`; or takes none, and returns one that is taken with its place."""
        digests = {}
        for name in names:
            digests[name] = hash(name) & (2**64 - 1) or 1
            slot = self._slot(digests[name])
            if self._digests[slot]:
                return name, self._where(self._origins[slot])
        origin = self._packed(where)
        for digest in digests.values():
            self._add(digest, origin)
        return None

    def _slot(self, digest: int) -> int:
        """Where a digest is, or would be."""
        last = len(self._digests) - 1
        slot = digest & last
        while self._digests[slot] not in (0, digest):
            slot = (slot + 1) & last
        return slot

    def _add(self, digest: int, origin: int) -> None:
        slot = self._slot(digest)
        self._count += not self._digests[slot]
        self._digests[slot], self._origins[slot] = digest, origin
        if 3 * self._count > 2 * len(self._digests):
            self._grow()

    def _grow(self) -> None:
        digests, origins = self._digests, self._origins
        self._digests = array("Q", bytes(16 * len(digests)))
        self._origins = array("Q", bytes(16 * len(digests)))
        for digest, origin in zip(digests, origins, strict=True):
            if digest:
                slot = self._slot(digest)
                self._digests[slot], self._origins[slot] = digest, origin

    def _packed(self, where: str) -> int:
        """`file:line` as a number."""
        file, _, line = where.rpartition(":")
        if not line.isdecimal():
            file, line = where, "0"
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        return (len(self._files) - 1) << _LINE_BITS | int(line)

    def _where(self, origin: int) -> str:
        file, line = self._files[origin >> _LINE_BITS], origin & ((1 << _LINE_BITS) - 1)
        return f"{file}:{line}" if line else file
