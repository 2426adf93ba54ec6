"""Parquet files, one or a folder of them, read batch by batch and only in the columns that are needed."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace.bulk.input.formats.record import Record, Wanted, without_nan
from interlace.errors import InvalidRequestError

if TYPE_CHECKING:
    import pyarrow as pa

_BUFFER = 1 << 20  # bytes a column; without it and with pre_buffer, whole row groups are held in memory
_ROWS = 256  # a batch; rows with pictures in them are megabytes each


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files below a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*.parquet") if path.is_file())


def parquet_header(path: Path) -> tuple[str, ...]:
    """The column names. Raises `InvalidRequestError` for a file that is not Parquet, or without pyarrow."""
    opening, errors = _reader(path)
    try:
        with opening(path) as file:
            header = tuple(file.schema_arrow.names)
    except errors as error:
        raise InvalidRequestError(f"{path} is not a Parquet file that can be read: {error}", "prompts_file") from error
    if len(set(header)) < len(header):
        raise InvalidRequestError(f"{path}: a column is named twice in {list(header)}", "prompts_file")
    return header


def read_parquet(paths: Sequence[Path], wanted: Wanted) -> Iterator[Record]:
    """The rows of all files. A file that breaks off is one bad record, and the next file is read."""
    for path in paths:
        opening, errors = _reader(path)
        row = 1
        try:
            with opening(path) as file:
                names = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
                for batch in file.iter_batches(_ROWS, columns=names):
                    yield from _records(path, row, batch)
                    row += batch.num_rows
        except errors as error:
            yield Record(f"{path}:{row}", error=f"can't read on in this Parquet file: {error}")


def _records(path: Path, first: int, batch: "pa.RecordBatch") -> Iterator[Record]:
    """Row by row where a batch as a whole has a cell that can't be read."""
    try:
        for row, columns in enumerate(batch.to_pylist(), first):
            yield Record(f"{path}:{row}", without_nan(columns))
    except (ValueError, OverflowError):
        for offset in range(batch.num_rows):
            try:
                yield Record(f"{path}:{first + offset}", without_nan(batch.slice(offset, 1).to_pylist()[0]))
            except (ValueError, OverflowError) as error:
                yield Record(f"{path}:{first + offset}", error=f"a cell can't be read: {error}")


def _reader(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """What opens a file, and the errors that it and the file raise."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        how = "pip install 'interlace[parquet]' installs it"
        raise InvalidRequestError(f"reading {path} needs pyarrow; {how}", "prompts_file") from None
    return partial(parquet.ParquetFile, pre_buffer=False, buffer_size=_BUFFER), (pa.ArrowException, OSError)
