"""The manifest as a Parquet file: one row an image, one column a parameter."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace.bulk.output.disk import TEMPORARY, sync_folder
from interlace.errors import InvalidRequestError

if TYPE_CHECKING:
    import pyarrow

PARQUET = "manifest.parquet"
_ROWS_AT_ONCE = 10_000


def check_pyarrow() -> None:
    """Raises `InvalidRequestError` where pyarrow is missing: better now than after a day's work."""
    if importlib.util.find_spec("pyarrow") is None:
        message = "--export-parquet needs pyarrow, which is not installed; pip install 'interlace[parquet]'"
        raise InvalidRequestError(message, "export_parquet")


def export_parquet(folder: Path, records: Sequence[Mapping[str, object]]) -> Path:
    """Writes `manifest.parquet`, whole or not at all. Raises OSError where the disk does not take it."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, _Column] = {}
    for record in records:
        for name, value in _flat(record).items():
            columns.setdefault(name, _Column()).add(value)
    schema = pyarrow.schema([(name, column.type()) for name, column in columns.items()])
    rows = iter(map(_flat, records))
    path = folder / PARQUET
    temporary = folder / f"{TEMPORARY}{PARQUET}"
    with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while some := [_fitting(row, schema) for row in islice(rows, _ROWS_AT_ONCE)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
    temporary.replace(path)
    sync_folder(folder)
    return path


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """`timing` as columns of its own: `timing_total_s`."""
    flat = {name: value for name, value in record.items() if name != "timing"}
    return flat | {f"timing_{name}": value for name, value in (record.get("timing") or {}).items()}


class _Column:
    """What kinds of values a column has, seen one by one."""

    def __init__(self) -> None:
        self._kinds: set[type] = set()
        self._low = self._high = 0

    def add(self, value: object) -> None:
        if value is not None:
            self._kinds.add(type(value))
        if isinstance(value, int):
            self._low, self._high = min(self._low, value), max(self._high, value)

    def type(self) -> "pyarrow.DataType":
        """What holds all the values; a text where they are of different kinds, or not plain."""
        import pyarrow

        if self._kinds == {bool}:
            return pyarrow.bool_()
        if self._kinds == {int}:
            if self._low >= 0 and self._high >= 2**63:
                return pyarrow.uint64() if self._high < 2**64 else pyarrow.string()
            return pyarrow.int64() if self._low >= -(2**63) else pyarrow.string()
        return pyarrow.float64() if self._kinds and self._kinds <= {int, float} else pyarrow.string()


def _fitting(row: Mapping[str, Any], schema: "pyarrow.Schema") -> dict[str, Any]:
    """JSON stands for what isn't plain in a column of texts."""
    import pyarrow

    def fit(name: str, value: object) -> object:
        if value is None or isinstance(value, str) or schema.field(name).type != pyarrow.string():
            return value
        return json.dumps(value, ensure_ascii=False)

    return {name: fit(name, value) for name, value in row.items()}
