"""Writes finished images so that a killed run loses nothing and doubles nothing, and knows what is already there.

An image goes to a temporary file, which is synced and renamed; then one synced line goes to `manifest.jsonl`. So a
line stands for a whole file, and a file without a line is made again. Knows nothing of models and engines.
"""

import contextlib
import errno
import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from PIL import Image

from interlace.bulk.disk import TEMPORARY, GrowingFile, json_line, replace_file, why_not_written
from interlace.bulk.encoding import Encoding
from interlace.bulk.failures import Failures, gather_failures
from interlace.bulk.locks import FolderLock
from interlace.bulk.manifest import FAILURES, MANIFEST, SUMMARY, last_lines, read_manifest
from interlace.bulk.parts import all_records, part_of, remove_parts
from interlace.bulk.rows import BadRow, Job
from interlace.bulk.shards import Shard
from interlace.bulk.stores import FileStore, Layout, Store, TarStore, discard, is_stored, read_stored, tidy_shards
from interlace.errors import InvalidRequestError, StorageError

logger = logging.getLogger(__name__)

__all__ = [
    "FAILURES",
    "MANIFEST",
    "SUMMARY",
    "ModelId",
    "Sink",
    "SinkOptions",
    "State",
    "read_manifest",
    "replace_file",
    "request_key",
]

_NOT_IN_THE_IMAGE = ("priority", "timeout_s", "num_images")
_IF_GIVEN = ("model_type", "prompt_enhance")  # keys without these are older than these

State = Literal["missing", "done", "changed"]


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """How images are stored, and how much what is there already is trusted."""

    encoding: Encoding = field(default_factory=Encoding)
    layout: Layout = "files"
    shard_size: int = 1000  # images a tar shard
    verify: bool = False  # read every image that is there, instead of trusting sizes

    def __post_init__(self) -> None:
        if self.layout not in ("files", "webdataset"):
            message = f"the output layout is {self.layout!r}; expected files or webdataset"
            raise InvalidRequestError(message, "output_layout")
        if self.shard_size < 1:
            message = f"the shard size is {self.shard_size}; expected at least 1 image"
            raise InvalidRequestError(message, "shard_size")


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """Which weights, in which precision: a change of any makes other images."""

    model: str
    revision: str | None = None
    variant: str | None = None
    torch_dtype: str | None = None
    model_type: str | None = None  # what kind of editor it is, where the user says so
    prompt_enhance: str | None = None  # what rewrote the prompts


def request_key(job: Job, model: ModelId) -> str:
    """A digest of everything that an image depends on; equal keys, equal images."""
    wanted = {name: value for name, value in vars(job.sampling).items() if name not in _NOT_IN_THE_IMAGE}
    wanted |= vars(model) | {"prompt": job.prompt}
    for name in _IF_GIVEN:
        if wanted[name] is None:
            del wanted[name]
    if job.images:
        wanted["images"] = [source.key for source in job.images]
    text = json.dumps(wanted, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _has_other_inputs(job: Job, record: Mapping[str, Any]) -> bool:
    """Whether the pictures that an edit was made from have other bytes by now."""
    before = record.get("input_sha256") or []
    return len(before) != len(job.images) or any(
        source.has_changed(digest) for source, digest in zip(job.images, before, strict=True)
    )


class Sink:
    """An output folder, held by one run at a time. `write` may be called from many threads.

    With a `shard`, it is one of many sinks in a folder that its maker holds: it has manifest and failures of its own
    (see `parts`), and knows the records of its own rows only. `is_restart`: the shard's last process has died, and this
    one goes on. `hold`: the maker holds the folder alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overwrite: bool = False,
        shard: Shard | None = None,
        is_restart: bool = False,
        hold: FolderLock | None = None,
        options: SinkOptions = SinkOptions(),
    ) -> None:
        """Raises `InvalidRequestError` where the folder can't be used or another run holds it, `StorageError` where
        the disk is full."""
        self.folder, self.options = folder, options
        self._lock = threading.Lock()
        self._superseded = False
        self._shard = shard
        self._hold: FolderLock | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shard is None and hold is None:
                self._hold = FolderLock.alone(folder)
            self._open(overwrite, is_restart)
        except OSError as error:
            self._let_go()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = StorageError if full else InvalidRequestError
            raise kind(why_not_written(folder, error)) from error

    def _open(self, overwrite: bool, is_restart: bool) -> None:
        for leftover in self.folder.glob(f"{self._temporary}*"):
            leftover.unlink()
        if overwrite:
            known = last_lines(self._path(MANIFEST)) if is_restart else {}
        else:
            known = all_records(self.folder, self._shard)
        self.records = {name: record for name, record in known.items() if self._is_trusted(record)}
        self.num_distrusted = len(known) - len(self.records)
        self._untidy = overwrite or self.num_distrusted > 0
        self._compact()
        if self._shard is None:
            gather_failures(self.folder)
            remove_parts(self.folder)
        self._store = self._open_store()
        self._manifest = GrowingFile(self._path(MANIFEST))
        self._failures = Failures(self._path(FAILURES), empty=overwrite)

    def _open_store(self) -> Store:
        if self.options.layout == "files":
            return FileStore(self.folder, self._temporary)
        tag = None if self._shard is None else self._shard.tag
        return TarStore(self.folder, self.options.shard_size, self.records.values(), tag)

    def _is_trusted(self, record: Mapping[str, Any]) -> bool:
        if not self.options.verify:
            return is_stored(self.folder, record)
        with contextlib.suppress(OSError, KeyError, TypeError):
            return hashlib.sha256(read_stored(self.folder, record)).hexdigest() == record["sha256"]
        return False

    def state(self, job: Job, key: str) -> State:
        """Whether this very image is there already, from this or an earlier run."""
        record = self.records.get(job.name)
        if record is None:
            return "missing"
        as_wanted = record.get("encoding", "png") == self.options.encoding.label
        as_wanted &= ("shard" in record) == (self.options.layout == "webdataset")
        if not as_wanted or record.get("request_key") != key:
            return "changed"
        return "changed" if self.options.verify and _has_other_inputs(job, record) else "done"

    def write(self, job: Job, image: Image.Image, record: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Stores one image with what made it. Raises OSError where the disk does not take it; nothing is half done.

        `timing` goes to the manifest only, so that the same request gives the same bytes.
        """
        encoding = self.options.encoding
        data = encoding.encode(image, record)
        facts = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "encoding": encoding.label}
        if self.options.layout == "files":  # many at once
            place = self._store.put(job.name, encoding.extension, data, record)
        with self._lock:
            if self.options.layout != "files":  # the manifest's lines are in the order of the shards
                place = self._store.put(job.name, encoding.extension, data, record)
            line = {"id": job.row_id, "index": job.index, **place, **facts, **record, "timing": dict(timing)}
            self._manifest.append(json_line(line))
            before = self.records.get(job.name)
            self.records[job.name] = line
            self._failures.forget(job.name)
            if before is not None:
                self._superseded = True
                if "shard" in before or before["file"] != line["file"]:
                    self._untidy |= not discard(self.folder, before)

    def fail(self, where: Job | BadRow, error: str, kind: str, attempts: int = 1) -> None:
        """Lists a row or an image that could not be made. Raises OSError where the disk does not take it."""
        with self._lock:
            self._failures.add(where, error, kind, attempts)

    def failures(self) -> list[dict[str, Any]]:
        """What is listed now, by this run and by earlier ones."""
        with self._lock:
            return self._failures.lines()

    def forget_earlier_failures(self) -> None:
        """This run went over every row: what earlier runs listed is out of date."""
        with self._lock:
            self._failures.forget_earlier()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        replace_file(self._path(SUMMARY), text.encode(errors="backslashreplace"), self._temporary)

    def close(self) -> None:
        """What is left to tidy up is left to the next run where the disk does not take it."""
        try:
            self._store.close()
            self._manifest.close()
            if self._untidy and self._shard is None:
                self._tidy()
            elif self._superseded:
                self._compact()
            self._failures.forget_earlier(self.records)
            self._failures.close()
        except OSError as error:
            logger.warning("%s", why_not_written(self.folder, error))
        finally:
            self._let_go()

    def _tidy(self) -> None:
        """Takes out of tar shards what was made again."""
        moved = tidy_shards(self.folder, self.records.values())
        for record in self.records.values():
            record |= moved.get(record["file"], {}) if "shard" in record else {}
        self._compact()

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.close()

    @property
    def _temporary(self) -> str:
        return TEMPORARY if self._shard is None else f"{TEMPORARY}{self._shard.tag}-"

    def _path(self, name: str) -> Path:
        return self.folder / part_of(name, self._shard)

    def _compact(self) -> None:
        """Makes the manifest say each image once; leaves the file alone where it does so already."""
        path = self._path(MANIFEST)
        # A part may hold rows of an earlier division into shards: they stay until the parts are put together.
        records = self.records if self._shard is None else last_lines(path)
        text = b"".join(map(json_line, records.values()))
        if not path.exists() or path.read_bytes() != text:
            replace_file(path, text, self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
