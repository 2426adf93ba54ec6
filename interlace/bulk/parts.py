"""Where many processes write to one folder: each has its part of the manifest, of the failures and of the summary.

A part is named after its node and process, `manifest.0-1.jsonl`. What is known of a folder is the manifest and all
parts together; whoever holds the folder alone puts the parts into the manifest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from interlace.bulk.disk import replace_file
from interlace.bulk.faults import fault_point
from interlace.bulk.manifest import FAILURES, MANIFEST, SUMMARY, Record, image_name, last_lines
from interlace.bulk.shards import Shard
from interlace.bulk.stores import is_stored, read_stored, tidy_shards


def part_of(name: str, shard: Shard | None) -> str:
    """A shard's own file: `manifest.jsonl` of process 1 on node 0 is `manifest.0-1.jsonl`."""
    stem, suffix = name.rsplit(".", 1)
    return name if shard is None else f"{stem}.{shard.tag}.{suffix}"


def parts(folder: Path, name: str) -> list[Path]:
    stem, suffix = name.rsplit(".", 1)
    return sorted(folder.glob(f"{stem}.[0-9]*-[0-9]*.{suffix}"))


def remove_parts(folder: Path, *names: str) -> None:
    for name in names or (MANIFEST, FAILURES, SUMMARY):
        for path in parts(folder, name):
            path.unlink(missing_ok=True)


def all_records(folder: Path, shard: Shard | None = None) -> dict[str, Record]:
    """The last word on each image of a shard (or of all), by image name; whether it is there is another matter.

    A part is newer than the manifest. Where parts tell different things of one image, its file says which is right.
    """
    records = _records(folder / MANIFEST, shard)
    told: dict[str, list[Record]] = {}
    for path in parts(folder, MANIFEST):
        for name, record in _records(path, shard).items():
            told.setdefault(name, []).append(record)
    return records | {name: _right_one(folder, rivals) for name, rivals in told.items()}


def gather_parts(folder: Path, order: Mapping[str, int]) -> None:
    """Puts all parts into the manifest, sorted by `order` (places of image names). Needs the folder alone.

    At every moment of it, each record is in the manifest or in a part.
    """
    records = sorted(all_records(folder).values(), key=lambda record: order.get(image_name(record), len(order)))
    if any("shard" in record for record in records):
        moved = tidy_shards(folder, [record for record in records if is_stored(folder, record)])
        records = [record | moved.get(record["file"], {}) if "shard" in record else record for record in records]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    replace_file(folder / MANIFEST, text.encode())
    fault_point("gathered")
    remove_parts(folder, MANIFEST)


def _records(path: Path, shard: Shard | None) -> dict[str, Record]:
    # Another process may be in the middle of a part's last line.
    lines = last_lines(path, torn_lines_are_news=path.name == MANIFEST)
    if shard is None:
        return lines
    return {name: record for name, record in lines.items() if shard.owns(str(record.get("id", name)))}


def _right_one(folder: Path, rivals: list[Record]) -> Record:
    if len({record.get("sha256") for record in rivals}) == 1:
        return rivals[-1]
    return next((record for record in rivals if _is_of(folder, record)), rivals[-1])


def _is_of(folder: Path, record: Record) -> bool:
    try:
        return hashlib.sha256(read_stored(folder, record)).hexdigest() == record.get("sha256")
    except OSError:
        return False
