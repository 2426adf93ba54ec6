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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from interlace.bulk.input.rows import BadRow, Job
from interlace.bulk.launch.partition import Partition
from interlace.bulk.output.disk import TEMPORARY, GrowingFile, entries, json_line, replace_file, why_not_written
from interlace.bulk.output.failures import Failures, gather_failures
from interlace.bulk.output.index import Index, key_digest
from interlace.bulk.output.keys import ModelId, has_other_inputs, request_key
from interlace.bulk.output.locks import FolderLock
from interlace.bulk.output.manifest import FAILURES, MANIFEST, SUMMARY, read_manifest, write_lines
from interlace.bulk.output.parts import known_images, moved_lines, part_of, remove_parts
from interlace.bulk.output.replaced import replaced_by
from interlace.bulk.output.stores import FileStore, Layout, Moves, Store, TarStore, is_stored, read_stored, tidy_shards
from interlace.errors import InvalidRequestError, StorageError
from interlace.media.encode import Encoder, Encoding

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

State = Literal["missing", "done", "changed"]


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """How images are stored, and how much what is there already is trusted."""

    encoding: Encoder = field(default_factory=Encoding)
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


class Sink:
    """An output folder, held by one run at a time. `write` may be called from many threads.

    With a `partition`, it is one of many sinks in a folder that its maker holds: it has manifest and failures of its
    own (see `parts`), and knows the records of its own rows only. `is_restart`: the partition's last process has died,
    and this one goes on. `hold`: the maker holds the folder alone. `on_stored` hears of each
    line once it stands for a whole file, and may raise OSError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overwrite: bool = False,
        partition: Partition | None = None,
        is_restart: bool = False,
        hold: FolderLock | None = None,
        options: SinkOptions = SinkOptions(),
        on_stored: Callable[[Mapping[str, object]], None] = lambda line: None,
    ) -> None:
        """Raises `InvalidRequestError` where the folder can't be used or another run holds it, `StorageError` where
        the disk is full."""
        self.folder, self.options, self._on_stored = folder, options, on_stored
        self._lock = threading.Lock()
        self._superseded, self._overwrite = False, overwrite
        self._partition = partition
        self._hold: FolderLock | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if partition is None and hold is None:
                self._hold = FolderLock.alone(folder)
            self._open(overwrite, is_restart)
        except OSError as error:
            self._let_go()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = StorageError if full else InvalidRequestError
            raise kind(why_not_written(folder, error)) from error

    def _open(self, overwrite: bool, is_restart: bool) -> None:
        for leftover in entries(self.folder, f"{self._temporary}*"):
            leftover.unlink()
        if self._partition is not None:
            self._compact_part()
        self.images = Index() if overwrite else known_images(self.folder, self._partition, self._is_trusted)
        if overwrite and is_restart:
            self.images.read(self._path(MANIFEST), self._is_trusted)
        self.num_distrusted = self.images.drop_distrusted()
        self._untidy = overwrite or self.num_distrusted > 0
        if self._partition is None:
            self._compact()
            gather_failures(self.folder)
            remove_parts(self.folder)
        self._store = self._open_store()
        self._manifest = GrowingFile(self._path(MANIFEST))
        self._failures = Failures(self._path(FAILURES), empty=overwrite)

    def _open_store(self) -> Store:
        if self.options.layout == "files":
            return FileStore(self.folder, self._temporary)
        tag = None if self._partition is None else self._partition.tag
        return TarStore(self.folder, self.options.shard_size, self.images.records(), tag)

    def _is_trusted(self, record: Mapping[str, Any]) -> bool:
        if not self.options.verify:
            return is_stored(self.folder, record)
        with contextlib.suppress(OSError, KeyError, TypeError):
            return hashlib.sha256(read_stored(self.folder, record)).hexdigest() == record["sha256"]
        return False

    def state(self, job: Job, key: str) -> State:
        """Whether this very image is there already, from this or an earlier run."""
        entry = self.images.get(job.name)
        if entry is None:
            return "missing"
        as_wanted = entry.encoding == self.options.encoding.label
        as_wanted &= entry.is_in_shard == (self.options.layout == "webdataset")
        if not as_wanted or entry.key != key_digest(key):
            return "changed"
        return "changed" if self.options.verify and self._has_other_inputs(job) else "done"

    def replaces(self, job: Job) -> str | None:
        """What of another prompt would make way for this image, in words; None where nothing would."""
        return None if self._overwrite else replaced_by(job, self.folder, self.images, self.options.encoding.extension)

    def _has_other_inputs(self, job: Job) -> bool:
        try:
            return bool(job.pictures) and has_other_inputs(job, self.images.record(job.name))
        except OSError:  # it was in a part that its process wrote anew
            return True

    def write(self, job: Job, made: Any, record: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Stores one image, film or sound with what made it: whole, or not at all. Raises OSError where the disk does
        not take it.

        `timing` goes to the manifest only, so that the same request gives the same bytes.
        """
        encoding = self.options.encoding
        data = encoding.encode(made, record)
        facts = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "encoding": encoding.label}
        if self.options.layout == "files":  # many at once
            span = self._store.put(job.name, encoding.extension, data, record)
        with self._lock:
            if self.options.layout != "files":  # the manifest's lines are in the order of the shards
                span = self._store.put(job.name, encoding.extension, data, record)
            line = {"id": job.row_id, "index": job.index, **span, **facts, **record, "timing": dict(timing)}
            start = self._manifest.append(json_line(line))
            before = self.images.get(job.name)
            self.images.add(job.name, line, self._manifest.path, start)
            self._failures.forget(job.name)
            if before is not None:
                self._superseded = True
                if before.is_in_shard:
                    self._untidy = True  # it stays in its shard until then
                elif before.file != line["file"]:
                    (self.folder / before.file).unlink(missing_ok=True)
        self._on_stored(line)

    def fail(self, where: Job | BadRow, error: str, kind: str, attempts: int = 1) -> None:
        """Lists a row or an image that could not be made. Raises OSError where the disk does not take it."""
        with self._lock:
            self._failures.add(where, error, kind, attempts)

    def failures(self) -> list[dict[str, object]]:
        """What is listed now, by this run and by earlier ones."""
        with self._lock:
            return self._failures.lines()

    def forget_earlier_failures(self) -> None:
        """This run went over every row: what earlier runs listed is out of date."""
        with self._lock:
            self._failures.forget_earlier()

    def write_summary(self, summary: Mapping[str, object]) -> None:
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        replace_file(self._path(SUMMARY), text.encode(errors="backslashreplace"), self._temporary)

    def close(self) -> None:
        """What is left to tidy up is left to the next run where the disk does not take it."""
        try:
            self._store.close()
            self._manifest.close()
            if self._untidy and self._partition is None:
                self._tidy()
            elif self._superseded:
                self._compact() if self._partition is None else self._compact_part()
            self._failures.forget_earlier(self.images)
            self._failures.close()
        except OSError as error:
            logger.warning("%s", why_not_written(self.folder, error))
        finally:
            self._let_go()

    def _tidy(self) -> None:
        """Takes out of tar shards what was made again."""
        self._compact(tidy_shards(self.folder, self.images.records_in_shards()))

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.close()

    @property
    def _temporary(self) -> str:
        return TEMPORARY if self._partition is None else f"{TEMPORARY}{self._partition.tag}-"

    def _path(self, name: str) -> Path:
        return self.folder / part_of(name, self._partition)

    def _compact(self, moves: Moves | None = None) -> None:
        """Makes the manifest say each image once; leaves the file alone where it does so already."""
        records = self.images.records()
        write_lines(self._path(MANIFEST), lambda: moved_lines(records, moves), self._temporary)
        self.images.settle(self._path(MANIFEST))

    def _compact_part(self) -> None:
        """A part may hold rows of an earlier division into partitions: they stay until the parts are put together."""
        part = Index()
        part.read(self._path(MANIFEST))
        write_lines(self._path(MANIFEST), part.records().lines, self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
