"""Writes finished images so that a killed run loses nothing and doubles nothing, and knows what is already there.

An image goes to a temporary file, which is synced and renamed; then one synced line goes to `manifest.jsonl`. So a
line stands for a whole file, and a file without a line is made again. Knows nothing of models and engines.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from PIL import Image

from interlace.bulk.png import encode_png
from interlace.bulk.rows import BadRow, Job
from interlace.errors import InvalidRequestError

logger = logging.getLogger(__name__)

MANIFEST, FAILURES, SUMMARY = "manifest.jsonl", "failures.jsonl", "summary.json"
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
    """An output folder, held by one run at a time. `write` may be called from many threads."""

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        """Raises `InvalidRequestError` where the folder can't be used or another run holds it."""
        self.folder = folder
        self._lock = threading.Lock()
        self._superseded = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._hold = _hold_folder(folder)
            for leftover in folder.glob(f"{_TEMPORARY}*"):
                leftover.unlink()
            self.records = {} if overwrite else _trusted_records(folder)
            self._compact()
            self._manifest = (folder / MANIFEST).open("a", encoding="utf-8")
            self._failures = (folder / FAILURES).open("w", encoding="utf-8")
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
        replace_file(self.folder / name, data)
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
        replace_file(self.folder / SUMMARY, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        self._manifest.close()
        self._failures.close()
        if self._superseded:
            self._compact()
        self._hold.close()

    def _compact(self) -> None:
        """Makes the manifest say each image once; leaves the file alone where it does so already."""
        text = "".join(_json_line(record) for record in self.records.values())
        path = self.folder / MANIFEST
        if not path.exists() or path.read_bytes() != text.encode():
            replace_file(path, text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def replace_file(path: Path, data: bytes) -> None:
    """The file is the old one or the whole new one at every moment, also across a power cut."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
    file.write(_json_line(record))
    file.flush()
    os.fsync(file.fileno())


def _hold_folder(folder: Path) -> io.TextIOWrapper:
    """Two runs in one folder would remove each other's files. The system lets go when a process dies."""
    file = (folder / ".lock").open("a", encoding="utf-8")
    try:
        import fcntl
    except ImportError:  # not on Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InvalidRequestError(f"another run is writing to {folder}; wait for it or take another folder") from None
    except OSError:
        logger.debug("%s has no locks; not guarding against a second run", folder)
    return file


def _trusted_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's last word on each image, for images whose file is there with the size that was written."""
    records = {str(Path(record["file"]).stem): record for record in read_manifest(folder)}
    return {name: record for name, record in records.items() if _is_whole(folder, record)}


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    try:
        return (folder / record["file"]).stat().st_size == record["size_bytes"]
    except OSError:
        return False


def read_manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a manifest. A line that is torn (the machine went down while it was written) is left out."""
    path = folder / MANIFEST
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                if not isinstance(record["file"], str) or not isinstance(record["size_bytes"], int):
                    raise TypeError("wrong types")
            except (ValueError, KeyError, TypeError):
                logger.warning("%s:%d is not a whole line and is not trusted; its image is made again", path, number)
                continue
            yield record
