"""The manifest: one JSON line a finished image. Here is how its lines are read, and which of them are believed."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MANIFEST, FAILURES, SUMMARY = "manifest.jsonl", "failures.jsonl", "summary.json"
Record = dict[str, Any]


def read_manifest(folder: Path) -> Iterator[Record]:
    """The lines of a folder's manifest. A line that is torn (the machine went down meanwhile) is left out."""
    return read_lines(folder / MANIFEST)


def read_lines(path: Path, *, torn_lines_are_news: bool = True) -> Iterator[Record]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                if not isinstance(record["file"], str) or not isinstance(record["size_bytes"], int):
                    raise TypeError("wrong types")
            except (ValueError, KeyError, TypeError):
                if torn_lines_are_news:
                    logger.warning("%s:%d is not a whole line; its image is made again", path, number)
                continue
            yield record


def last_lines(path: Path, *, torn_lines_are_news: bool = True) -> dict[str, Record]:
    """The last word of one file on each image, by image name."""
    lines = read_lines(path, torn_lines_are_news=torn_lines_are_news)
    return {image_name(record): record for record in lines}


def image_name(record: Mapping[str, Any]) -> str:
    return str(Path(record["file"]).stem)
