"""Pictures that rows name: where they are, what identifies them, and how they become PIL images.

A row may name a path, a URL, a data URL, the bytes themselves, or a list of these. Nothing is read before it is needed.
"""

import hashlib
import json
import posixpath
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from interlace.errors import InvalidRequestError
from interlace.media import fetch as web
from interlace.media.decode import PictureError, Taken, decode, from_base64

MAX_BYTES = 256 << 20  # of a file
MAX_REMOTE_BYTES = 64 << 20
REMOTE_TIMEOUT_S = 30.0
MAX_REDIRECTS = 4  # data sets' hosts redirect to where the bytes are
_KINDS = ("image", "audio", "video")
_TAKEN = Taken()  # alpha is dropped and 16 bits are clipped, as diffusers' `load_image` does


class ImageSource(ABC):
    """A picture to be edited, not read before it is needed."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How the user knows it; short."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What tells this picture from another, on every machine; cheap, and part of an edit's request key."""

    @abstractmethod
    def read(self) -> bytes:
        """The file's bytes. Raises `InvalidRequestError` where there are none to be had."""

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes; what `load` has read is not read again. Raises `InvalidRequestError`."""
        return hashlib.sha256(self.read()).hexdigest()

    def has_changed(self, sha256: str) -> bool:
        """Whether the bytes are others than those of this digest. True where they can't be read."""
        try:
            return self.sha256 != sha256
        except InvalidRequestError:
            return True

    def load(self) -> Image.Image:
        """The picture, upright, in RGB, as diffusers' `load_image` gives it. Raises `InvalidRequestError`."""
        data = self.read()
        self.__dict__["sha256"] = hashlib.sha256(data).hexdigest()
        try:
            return decode(data, _TAKEN)
        except PictureError as error:
            what = "too large" if error.why == "too_large" else "no whole picture"
            raise InvalidRequestError(f"the image {self.name} is {what}: {error}") from error


@dataclass(frozen=True)
class FileImage(ImageSource):
    """A file. Its key is its path as the row gives it and its size: neither the folder it is in nor its age counts."""

    path: Path
    given: str
    size: int

    @property
    def name(self) -> str:
        return self.given

    @property
    def key(self) -> str:
        return f"file:{self.given}:{self.size}"

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidRequestError(f"can't read the image {self.given}: {error.strerror or error}") from error
        if len(data) > MAX_BYTES:
            raise InvalidRequestError(f"the image {self.given} is larger than {MAX_BYTES >> 20} MiB")
        return data


@dataclass(frozen=True)
class DataImage(ImageSource):
    """Bytes that stood in the row itself. Their key is their digest."""

    data: bytes = field(repr=False)
    given: str = "embedded image"

    @property
    def name(self) -> str:
        return self.given

    @property
    def key(self) -> str:
        return f"sha256:{self.sha256}"

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class RemoteImage(ImageSource):
    """A file behind a URL that a row names: public addresses only, limited in size and time. Its key is the URL."""

    url: str

    @property
    def name(self) -> str:
        return self.url

    @property
    def key(self) -> str:
        return f"url:{self.url}"

    def has_changed(self, sha256: str) -> bool:
        """Not looked at: a URL stands for one picture."""
        return False

    def read(self) -> bytes:
        try:
            return web.fetch(
                self.url, max_bytes=MAX_REMOTE_BYTES, timeout_s=REMOTE_TIMEOUT_S, max_redirects=MAX_REDIRECTS
            )
        except (OSError, ValueError) as error:
            raise InvalidRequestError(f"can't fetch the image {self.url}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """What cells with pictures may say. `folder` is what relative paths are relative to; None: the input's own."""

    folder: Path | None = None
    allow_remote: bool = False
    max_images: int | None = None  # that the model edits at once; None: any number
    model: str = "this model"  # for messages


def parse_images(cell: object, folder: Path, rules: ImageRules = ImageRules()) -> tuple[ImageSource, ...]:
    """The pictures of one cell: a path, a URL, a data URL, bytes, {"bytes": ..., "path": ...}, or a list of these.

    A text may also be a JSON array. Raises `InvalidRequestError` for anything else, a file that is not there, or more
    pictures than the model takes.
    """
    folder = rules.folder or folder
    sources = tuple(_source(item, folder, rules) for item in _items(cell))
    if not sources:
        raise InvalidRequestError("the row has no input_images; expected a path, or a list of paths")
    if rules.max_images is not None and len(sources) > rules.max_images:
        most = "one picture" if rules.max_images == 1 else f"at most {rules.max_images} pictures"
        raise InvalidRequestError(f"the row has {len(sources)} input_images; {rules.model} edits {most} at a time")
    return sources


def one_image(what: str, cell: Any, folder: Path, rules: ImageRules) -> ImageSource:
    """The one picture of a cell. Raises as `parse_images` does."""
    if isinstance(cell, ImageSource):  # of the command line
        return cell
    found = parse_images(cell, folder, replace(rules, max_images=None))
    if len(found) > 1:
        raise InvalidRequestError(f"{what} is {len(found)} pictures; expected one")
    return found[0]


def parse_media(cell: object, folder: Path, rules: ImageRules = ImageRules()) -> tuple[tuple[str, ImageSource], ...]:
    """What a row's `multi_modal_data` names, each with its kind: an object (or its JSON) with image, audio and video,
    each as `parse_images` takes pictures.

    Raises `InvalidRequestError` for anything else, or a file that is not there.
    """
    if cell is None:
        return ()
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"multi_modal_data is no JSON: {error}", "multi_modal_data") from error
    if not isinstance(cell, Mapping) or set(cell) - set(_KINDS):
        got = ", ".join(map(str, cell)) if isinstance(cell, Mapping) else type(cell).__name__
        text = f"multi_modal_data has {got}; expected an object with some of {', '.join(_KINDS)}"
        raise InvalidRequestError(text, "multi_modal_data")
    folder = rules.folder or folder
    return tuple((kind, _source(item, folder, rules)) for kind in _KINDS for item in _items(cell.get(kind)))


def _items(cell: object) -> Sequence[object]:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            listed = json.loads(cell)
        except (ValueError, RecursionError):
            return [cell]  # a path with a bracket
        return [item for item in listed if item is not None]
    if isinstance(cell, (list, tuple)):
        return [item for item in cell if item is not None]
    return [] if cell is None else [cell]


def _source(item: object, folder: Path, rules: ImageRules) -> ImageSource:
    if isinstance(item, Mapping):
        return _from_mapping(item, folder, rules)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return DataImage(bytes(item))
    if not isinstance(item, str) or not item.strip():
        got = repr(item)[:80]
        raise InvalidRequestError(f"an input image is {got}; expected a path, a URL, a data URL or bytes")
    text = item.strip()
    if text[:5].lower() == "data:":
        return _from_data_url(text)
    if text[:8].lower().startswith(("http://", "https://")):
        if not rules.allow_remote:
            how = "download it first, or allow it with --allow-remote-images"
            raise InvalidRequestError(f"the image {text[:200]} is on the network; {how}")
        return RemoteImage(text)
    return _from_path(text, folder)


def _from_mapping(item: Mapping[Any, Any], folder: Path, rules: ImageRules) -> ImageSource:
    """As datasets keep pictures: the bytes, or where these are missing the path."""
    data, path = item.get("bytes"), item.get("path") or item.get("url")
    if isinstance(data, (bytes, bytearray)):
        return DataImage(bytes(data), PurePosixPath(path).name if isinstance(path, str) else "embedded image")
    if isinstance(path, str):
        return _source(path, folder, rules)
    keys = ", ".join(map(str, item)) or "nothing"
    raise InvalidRequestError(f'an input image is an object with {keys}; expected {{"bytes": ..., "path": ...}}')


def _from_data_url(text: str) -> DataImage:
    try:
        data = from_base64(text)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"the data URL {text[:40]}... {error}") from error
    return DataImage(data, f"{text.partition(',')[0]},...")


def _from_path(text: str, folder: Path) -> FileImage:
    path = folder / text
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        hint = ""
        if any(mark in text for mark in ";|,"):
            hint = '; several images in one text are a JSON array: ["a.png", "b.png"]'
        raise InvalidRequestError(f"the image {text[:200]!r} can't be read: {why} ({path.parent}){hint}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequestError(f"the image {text[:200]!r} is no file, but a folder or a device")
    if status.st_size > MAX_BYTES:
        raise InvalidRequestError(f"the image {text[:200]!r} is larger than {MAX_BYTES >> 20} MiB")
    return FileImage(path, _stable_name(text, folder), status.st_size)


def _stable_name(text: str, folder: Path) -> str:
    """The path as it is on every machine: relative to the input, or of a path elsewhere its last two parts."""
    if not Path(text).is_absolute():
        is_windows = "\\" in text and "/" not in text
        return posixpath.normpath(PureWindowsPath(text).as_posix() if is_windows else text)
    path, base = Path(text), folder.absolute()
    if path.is_relative_to(base):
        return posixpath.normpath(path.relative_to(base).as_posix())
    return "/".join(path.parts[-2:])
