"""Where many processes write to one folder: each has its part of the manifest, of the failures and of the summary.

A part is named after its node and process, `manifest.0-1.jsonl`. What is known of a folder is the manifest and all
parts together; whoever holds the folder alone puts the parts into the manifest.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from interlace.bulk.faults import fault_point
from interlace.bulk.launch.partition import Partition
from interlace.bulk.output.disk import entries, json_line
from interlace.bulk.output.index import Index
from interlace.bulk.output.manifest import FAILURES, MANIFEST, SUMMARY, Record, Records, write_lines
from interlace.bulk.output.stores import Moves, is_stored, read_stored, tidy_shards

_ATTEMPTS = 5  # at reading parts, which their processes may write anew


def part_of(name: str, partition: Partition | None) -> str:
    """A partition's own file: `manifest.jsonl` of process 1 on node 0 is `manifest.0-1.jsonl`."""
    stem, suffix = name.rsplit(".", 1)
    return name if partition is None else f"{stem}.{partition.tag}.{suffix}"


def parts(folder: Path, name: str) -> list[Path]:
    stem, suffix = name.rsplit(".", 1)
    return entries(folder, f"{stem}.[0-9]*-[0-9]*.{suffix}")


def remove_parts(folder: Path, *names: str) -> None:
    for name in names or (MANIFEST, FAILURES, SUMMARY):
        for path in parts(folder, name):
            path.unlink(missing_ok=True)


def known_images(
    folder: Path, partition: Partition | None = None, is_trusted: Callable[[Record], bool] = lambda record: True
) -> Index:
    """The last word on each image of a partition (or of all), with what `is_trusted` says of it.

    A part is newer than the manifest. Where parts tell different things of one image, its file says which is right.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(OSError):
            return _known_images(folder, partition, is_trusted)
    return _known_images(folder, partition, is_trusted)


def _known_images(folder: Path, partition: Partition | None, is_trusted: Callable[[Record], bool]) -> Index:
    def read(path: Path) -> Index:
        index = Index()
        is_wanted = (lambda row_id: True) if partition is None else partition.owns
        # Another process may be in the middle of a part's last line.
        index.read(path, is_trusted, is_wanted, torn_lines_are_news=path.name == MANIFEST)
        return index

    told = Index()
    for path in parts(folder, MANIFEST):
        told.merge(read(path), lambda ours, newer: _is_newer_right(folder, ours, newer))
    known = read(folder / MANIFEST)
    known.merge(told)
    return known


def gather_parts(folder: Path, names: Iterable[str]) -> None:
    """Puts all parts into the manifest, in the order of `names` (of images). Needs the folder alone.

    At every moment of it, each record is in the manifest or in a part.
    """
    known = known_images(folder, is_trusted=lambda record: "shard" in record and is_stored(folder, record))
    in_shards = known.records_in_shards()
    moves = tidy_shards(folder, in_shards) if in_shards else None
    records = known.records_sorted(names)
    write_lines(folder / MANIFEST, lambda: moved_lines(records, moves))
    fault_point("gathered")
    remove_parts(folder, MANIFEST)


def moved_lines(records: Records, moves: Moves | None) -> Iterator[bytes]:
    """The records' lines, after shards were tidied."""
    if not moves:
        return records.lines()
    return (json_line(moves.followed(json.loads(line))) for line in records.lines())


def _is_newer_right(folder: Path, ours: Record, newer: Record) -> bool:
    return ours.get("sha256") == newer.get("sha256") or not _is_of(folder, ours)


def _is_of(folder: Path, record: Record) -> bool:
    try:
        return hashlib.sha256(read_stored(folder, record)).hexdigest() == record.get("sha256")
    except OSError:
        return False
