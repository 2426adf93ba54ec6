"""An output folder in an object store (s3://, gs://, whatever fsspec knows), and the local one that a run works in.

The manifest there is the truth for resuming: an image is uploaded first, then a segment of the manifest with its line
(`manifest-000001.jsonl`); at the end the segments become one `manifest.jsonl`. So a line there stands for a whole
file, and what a run that was killed had not yet told there is made again. Nothing local is trusted.
"""

import logging
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from interlace.bulk.output.disk import entries, json_line
from interlace.bulk.output.manifest import MANIFEST, read_lines
from interlace.errors import InvalidRequestError
from interlace.retry import pause_s

logger = logging.getLogger(__name__)

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")  # a Path has one slash where a URL has two; C:\ is no URL
_SEGMENT = re.compile(r"manifest-\d{6,}\.jsonl")
_TEXTS = (".jsonl", ".json")
_NUM_UPLOADERS = 4
_NUM_AHEAD = 64  # images that may wait for their upload: past it the run waits
_SEGMENT_LINES, _SEGMENT_S = 500, 5.0  # a segment is written after so many lines or seconds
_ATTEMPTS = 4
_NUM_KEPT = 1000  # images whose bytes stay here until the end, for the contact sheet


def remote_url(folder: Path) -> str | None:
    """The URL that a path is, if it is one."""
    match = _URL.fullmatch(folder.as_posix())
    if match is None:
        return None
    scheme, rest = match.groups()
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


class RemoteFolder:
    """Open while a run lasts. `store` may be called from many threads.

    Raises `InvalidRequestError` for a URL that can't be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(url)
            if "file" in self._files.protocol:
                Path(self._root).mkdir(parents=True, exist_ok=True)  # stores of objects have no folders
            self._sizes = self._listed()
        except Exception as error:  # each store has its own errors
            raise InvalidRequestError(f"can't use {url}: {type(error).__name__}: {error}", "output_dir") from error
        self._place = tempfile.TemporaryDirectory(prefix="interlace-out-", ignore_cleanup_errors=True)
        self.local = Path(self._place.name)
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_NUM_AHEAD)
        self._lock = threading.Lock()
        self._images: set[str] = set()  # whole ones that are there
        self._lines: list[bytes] = []  # of images that are there, for the next segment
        self._since = time.monotonic()
        self._number, self._num_stored = 0, 0
        self._error: OSError | None = None
        self._uploaders = [
            threading.Thread(target=self._upload_all, name=f"interlace-upload-{n}", daemon=True)
            for n in range(_NUM_UPLOADERS)
        ]
        self._fetch()
        for thread in self._uploaders:
            thread.start()

    def begin(self) -> None:
        """What the local folder says before anything is made, such as the numbers of its rows, is there too."""
        for path in entries(self.local, "*.json"):
            self._put(path)

    def store(self, record: Mapping[str, object]) -> None:
        """An image and its manifest line are in the local folder. Raises OSError where the store takes no more."""
        if self._error is not None:
            raise self._error
        self._queue.put(record)

    def finish(self) -> None:
        """The run is over and its folder closed: everything is there when this returns. Raises OSError."""
        self._drain()
        if self._error is not None:
            raise self._error
        for path in entries(self.local, "*"):
            if path.is_file() and path.name not in self._images and not path.name.startswith((".", MANIFEST)):
                self._put(path)
        self._put(self.local / MANIFEST)
        listed = self._listed()
        ours = {name for name in listed if name in self._images or name.endswith(_TEXTS)}
        for name in sorted(name for name in ours if not (self.local / name).exists()):  # segments are among them
            with suppress(FileNotFoundError):
                self._files.rm_file(self._at(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """What was stored so far is told there, however the run ended."""
        self._drain()
        self._place.cleanup()

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _listed(self) -> dict[str, int]:
        """Names and sizes of what is there."""
        try:
            found = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {one["name"].rsplit("/", 1)[-1]: int(one["size"] or 0) for one in found if one["type"] == "file"}

    def _fetch(self) -> None:
        """The small files as they are; for each whole image an empty file of its size, which a `Sink` trusts."""
        segments = sorted(name for name in self._sizes if _SEGMENT.fullmatch(name))
        self._number = max((int(name[9:-6]) for name in segments), default=0)
        with (self.local / MANIFEST).open("wb") as manifest:
            for name in [*([MANIFEST] if MANIFEST in self._sizes else []), *segments]:
                manifest.write(self._files.cat_file(self._at(name)))
        for name in self._sizes:
            if name.endswith(_TEXTS) and name != MANIFEST and name not in segments:
                (self.local / name).write_bytes(self._files.cat_file(self._at(name)))
        for _, record in read_lines(self.local / MANIFEST):
            if self._sizes.get(record["file"]) == record["size_bytes"]:
                _make_empty(self.local / record["file"], record["size_bytes"])
                self._images.add(record["file"])

    def _upload_all(self) -> None:
        while (record := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._upload(record)
            except Exception as error:
                self._error = OSError(5, f"{self.url} does not take it: {type(error).__name__}: {error}")

    def _upload(self, record: Mapping[str, Any]) -> None:
        name = record["file"]
        data = (self.local / name).read_bytes()
        self._again(lambda: self._files.pipe_file(self._at(name), data))
        with self._lock:
            self._images.add(name)
            self._lines.append(json_line(record))
            self._num_stored += 1
            if self._num_stored > _NUM_KEPT:
                _make_empty(self.local / name, len(data))
            if len(self._lines) >= _SEGMENT_LINES or time.monotonic() > self._since + _SEGMENT_S:
                self._write_segment()

    def _write_segment(self) -> None:
        """Under the lock."""
        if self._lines:
            name, data = f"manifest-{self._number + 1:06d}.jsonl", b"".join(self._lines)
            self._again(lambda: self._files.pipe_file(self._at(name), data))
            self._number, self._lines = self._number + 1, []
        self._since = time.monotonic()

    def _put(self, path: Path) -> None:
        self._again(lambda: self._files.put_file(str(path), self._at(path.name)))

    def _drain(self) -> None:
        for _ in self._uploaders:
            self._queue.put(None)
        for thread in self._uploaders:
            thread.join()
        self._uploaders = []
        with self._lock:
            try:
                self._write_segment()
            except Exception as error:
                self._error = self._error or OSError(5, f"{self.url} does not take it: {error}")
                logger.warning("%s", self._error)

    def _again(self, call: Callable[[], object]) -> None:
        """Stores have bad moments."""
        for attempt in range(_ATTEMPTS):
            try:
                call()
                return
            except Exception as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                logger.info("%s: trying again: %s", self.url, error)
                time.sleep(pause_s(attempt + 1))


def _make_empty(path: Path, size: int) -> None:
    """Of a size, and without bytes on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
