"""A folder of images with `metadata.jsonl` or `metadata.csv`, whose column file_name says which image a row is of."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from interlace.bulk.input.formats.record import Record

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = "file_name"


def find_metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def with_images(read: Callable[[], Iterator[Record]]) -> Iterator[Record]:
    """Names each row's image as the one to be edited, where the row does not name others itself."""
    for record in read():
        columns = dict(record.columns or {})
        name = columns.pop(FILE_NAME, None)
        if name is not None:
            columns.setdefault("input_images", name)
        yield record if record.columns is None else replace(record, columns=columns)
