"""The manifest as a Parquet file: one row an image, one column a parameter."""

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace.bulk.disk import TEMPORARY, sync_folder
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


def export_parquet(folder: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Writes `manifest.parquet`, whole or not at all. Raises OSError where the disk does not take it."""
    import pyarrow
    import pyarrow.parquet

    rows = [_flat(record) for record in records]
    schema = pyarrow.schema([(name, _type([row.get(name) for row in rows])) for name in _names(rows)])
    path = folder / PARQUET
    temporary = folder / f"{TEMPORARY}{PARQUET}"
    with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = [_fitting(row, schema) for row in rows[start : start + _ROWS_AT_ONCE]]
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
    temporary.replace(path)
    sync_folder(folder)
    return path


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """`timing` as columns of its own: `timing_total_s`."""
    flat = {name: value for name, value in record.items() if name != "timing"}
    return flat | {f"timing_{name}": value for name, value in (record.get("timing") or {}).items()}


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _type(values: Iterable[Any]) -> "pyarrow.DataType":
    """What holds all the values; a text where they are of different kinds, or not plain."""
    import pyarrow

    values = [value for value in values if value is not None]
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return pyarrow.bool_()
    if kinds == {int}:
        if min(values) >= 0 and max(values) >= 2**63:
            return pyarrow.uint64() if max(values) < 2**64 else pyarrow.string()
        return pyarrow.int64() if min(values) >= -(2**63) else pyarrow.string()
    return pyarrow.float64() if kinds and kinds <= {int, float} else pyarrow.string()


def _fitting(row: Mapping[str, Any], schema: "pyarrow.Schema") -> dict[str, Any]:
    """JSON stands for what isn't plain in a column of texts."""
    import pyarrow

    def fit(name: str, value: object) -> object:
        if value is None or isinstance(value, str) or schema.field(name).type != pyarrow.string():
            return value
        return json.dumps(value, ensure_ascii=False)

    return {name: fit(name, value) for name, value in row.items()}
