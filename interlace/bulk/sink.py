"""Writes finished images so that a killed run loses nothing and doubles nothing, and knows what is already there.

An image goes to a temporary file, which is synced and renamed; then one synced line goes to `manifest.jsonl`. So a
line stands for a whole file, and a file without a line is made again. Knows nothing of models and engines.
"""

import contextlib
import hashlib
import io
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from PIL import Image

from interlace.bulk.faults import fault_point
from interlace.bulk.locks import FolderLock
from interlace.bulk.manifest import FAILURES, MANIFEST, SUMMARY, is_whole, last_lines, read_manifest
from interlace.bulk.parts import all_records, part_of, remove_parts
from interlace.bulk.png import encode_png
from interlace.bulk.rows import BadRow, Job
from interlace.bulk.shards import Shard
from interlace.errors import InvalidRequestError

__all__ = [
    "FAILURES",
    "MANIFEST",
    "SUMMARY",
    "ModelId",
    "Sink",
    "State",
    "read_manifest",
    "replace_file",
    "request_key",
]

_TEMPORARY = ".tmp-"  # row ids never start with a dot
_NOT_IN_THE_IMAGE = ("priority", "timeout_s", "num_images")

State = Literal["missing", "done", "changed"]


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """Which weights, in which precision: a change of any makes other images."""

    model: str
    revision: str | None = None
    variant: str | None = None
    torch_dtype: str | None = None


def request_key(job: Job, model: ModelId) -> str:
    """A digest of everything that an image depends on; equal keys, equal images."""
    wanted = {name: value for name, value in asdict(job.sampling).items() if name not in _NOT_IN_THE_IMAGE}
    wanted |= asdict(model) | {"prompt": job.prompt}
    if job.images:
        wanted["images"] = [source.key for source in job.images]
    text = json.dumps(wanted, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Sink:
    """An output folder, held by one run at a time. `write` may be called from many threads.

    With a `shard`, it is one of many sinks in a folder that its maker holds: it has manifest and failures of its own
    (see `manifest`), and knows the records of its own rows only.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False, shard: Shard | None = None) -> None:
        """Raises `InvalidRequestError` where the folder can't be used or another run holds it."""
        self.folder = folder
        self._lock = threading.Lock()
        self._superseded = False
        self._shard = shard
        self._hold: FolderLock | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if shard is None:
                self._hold = FolderLock.alone(folder)
            for leftover in folder.glob(f"{self._temporary}*"):
                leftover.unlink()
            records = {} if overwrite else all_records(folder, shard)
            self.records = {name: record for name, record in records.items() if is_whole(folder, record)}
            self._compact()
            if shard is None:
                remove_parts(folder, MANIFEST)
            self._manifest = self._path(MANIFEST).open("a", encoding="utf-8")
            self._failures = self._path(FAILURES).open("w", encoding="utf-8")
        except OSError as error:
            raise InvalidRequestError(f"can't write to {folder}: {error.strerror or error}", "output_dir") from error

    def state(self, job: Job, key: str) -> State:
        """Whether this very image is there already, from this or an earlier run."""
        record = self.records.get(job.name)
        if record is None:
            return "missing"
        return "done" if record.get("request_key") == key else "changed"

    def write(self, job: Job, image: Image.Image, record: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Stores one image with what made it. Raises OSError where the disk does not take it; nothing is half done.

        `timing` goes to the manifest only, so that the same request gives the same bytes.
        """
        name = f"{job.name}.png"
        data = encode_png(image, record)
        replace_file(self.folder / name, data, self._temporary)
        facts = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        line = {"id": job.row_id, "index": job.index, **facts, **record, "timing": dict(timing)}
        with self._lock:
            _append(self._manifest, line)
            self._superseded |= job.name in self.records
            self.records[job.name] = line

    def fail(self, where: Job | BadRow, error: str, kind: str) -> None:
        """Lists a row or an image that could not be made."""
        if isinstance(where, Job):
            line = {"id": where.row_id, "index": where.index, "file": f"{where.name}.png", "prompt": where.prompt}
        else:
            line = {"id": where.id, "where": where.where, "prompt": where.prompt}
        with self._lock:
            _append(self._failures, {**line, "error": error, "type": kind})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        replace_file(self._path(SUMMARY), text.encode(), self._temporary)

    def close(self) -> None:
        self._manifest.close()
        self._failures.close()
        if self._superseded:
            self._compact()
        if self._hold is not None:
            self._hold.close()

    @property
    def _temporary(self) -> str:
        return _TEMPORARY if self._shard is None else f"{_TEMPORARY}{self._shard.tag}-"

    def _path(self, name: str) -> Path:
        return self.folder / part_of(name, self._shard)

    def _compact(self) -> None:
        """Makes the manifest say each image once; leaves the file alone where it does so already."""
        path = self._path(MANIFEST)
        # A part may hold rows of an earlier division into shards: they stay until the parts are put together.
        records = self.records if self._shard is None else last_lines(path)
        text = "".join(_json_line(record) for record in records.values())
        if not path.exists() or path.read_bytes() != text.encode():
            replace_file(path, text.encode(), self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def replace_file(path: Path, data: bytes, prefix: str = _TEMPORARY) -> None:
    """The file is the old one or the whole new one at every moment, also across a power cut."""
    temporary = path.with_name(f"{prefix}{path.name}")
    try:
        with temporary.open("wb") as file:
            fault_point("half a file", lambda: _half(file, data))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fault_point("temporary written")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    fault_point("renamed")


def _sync_folder(folder: Path) -> None:
    # Some systems (Windows, a few network mounts) have no way to sync a folder; the rename is atomic there too.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _append(file: io.TextIOWrapper, record: Mapping[str, Any]) -> None:
    line = _json_line(record)
    fault_point("before a line")
    fault_point("half a line", lambda: _half(file, line))
    file.write(line)
    file.flush()
    os.fsync(file.fileno())
    fault_point("line written")


def _half(file: IO[Any], data: Any) -> None:
    file.write(data[: len(data) // 2])
    file.flush()
