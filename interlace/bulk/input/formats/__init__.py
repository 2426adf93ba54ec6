"""Inputs of many formats as streams of records. Knows how they are written and nothing of what the columns mean.

A record that can't be read does not stop the others; an input that can't be read at all is an `InvalidRequestError`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from interlace.bulk.input.formats.encodings import empty, is_empty
from interlace.bulk.input.formats.folder import FILE_NAME, METADATA, find_metadata, with_images
from interlace.bulk.input.formats.hub import hub_id, hub_source, is_saved_dataset, saved_source
from interlace.bulk.input.formats.json import read_json
from interlace.bulk.input.formats.parquet import parquet_files, parquet_header, read_parquet
from interlace.bulk.input.formats.pipe import is_standard_input, standard_input
from interlace.bulk.input.formats.record import Record, Source, Wanted
from interlace.bulk.input.formats.tables import DELIMITERS, read_table, table_header
from interlace.bulk.input.formats.text import read_jsonl, read_text
from interlace.errors import InvalidRequestError

__all__ = ["READERS", "Record", "Source", "open_source", "suffixes"]

# By extension; a new format is a file beside this one and a line here. Parquet's columns are read ahead: see below.
READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_table,
    ".tsv": read_table,
    ".txt": read_text,
}


def suffixes() -> list[str]:
    """The extensions of files that are inputs."""
    return sorted([*READERS, ".parquet"])


def open_source(given: str | Path, split: str | None = None, subset: str | None = None) -> Source:
    """A file, a folder, the id of a dataset on the hub, or `-`. Raises `InvalidRequestError` for what can't be used."""
    path = Path(given)
    try:
        return _open_source(str(given), path, split, subset)
    except OSError as error:
        raise InvalidRequestError(f"can't read {path}: {error.strerror or error}", "prompts_file") from error
    except ValueError as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(f"{str(given)!r} can't be a path: {error}", "prompts_file") from error


def _open_source(given: str, path: Path, split: str | None, subset: str | None) -> Source:
    if not given:
        raise InvalidRequestError("the input's name is empty; expected a file, a folder or a dataset", "prompts_file")
    is_path = path.exists() or path.suffix.lower() in suffixes()
    if given.startswith("hf://") or not is_path:
        name = hub_id(given)
        if name is not None:
            return hub_source(name, split, subset)
    if is_standard_input(given):
        source = standard_input()
    elif path.is_dir():
        if find_metadata(path) is None and is_saved_dataset(path):
            return saved_source(path, split)
        source = _folder_source(path)
    else:
        source = _file_source(path)
    if split or subset:
        flag = "split" if split else "subset"
        raise InvalidRequestError(f"{path} has no splits or subsets; --{flag} is for Hugging Face datasets", flag)
    return source


def _file_source(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix not in suffixes():
        got = f"has the extension {path.suffix!r}" if suffix else "has no extension"
        raise InvalidRequestError(f"{path} {got}; expected one of {', '.join(suffixes())}", "prompts_file")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise InvalidRequestError(f"the prompts file {path} {what}", "prompts_file")
    if suffix in DELIMITERS and is_empty(path):
        raise InvalidRequestError(empty(path), "prompts_file")
    if suffix == ".parquet":
        return _parquet_source(path, [path])
    header = table_header(path) if suffix in DELIMITERS else None
    return Source(name=str(path), read=partial(_read_file, path), header=header, folder=path.parent)


def _read_file(path: Path, wanted: Wanted = None) -> Iterator[Record]:
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise InvalidRequestError(f"can't read {path}: {error.strerror or error}", "prompts_file") from error


def _parquet_source(given: Path, files: list[Path]) -> Source:
    folder = given if given.is_dir() else given.parent
    read = partial(read_parquet, files)
    return Source(name=str(given), read=read, header=parquet_header(files[0]), has_other_columns=True, folder=folder)


def _folder_source(path: Path) -> Source:
    metadata = find_metadata(path)
    if metadata is None:
        files = parquet_files(path)
        if not files:
            expected = f"one of {', '.join(METADATA)}, Parquet files, or a dataset that save_to_disk wrote"
            raise InvalidRequestError(f"the folder {path} holds no rows; expected {expected}", "prompts_file")
        return _parquet_source(path, files)
    source = _file_source(metadata)
    header = source.header
    if header is not None and FILE_NAME not in header:
        raise InvalidRequestError(f"{metadata} has no column {FILE_NAME}; it has {', '.join(header)}", "prompts_file")

    def read(wanted: Wanted) -> Iterator[Record]:
        return with_images(partial(source.read, None if wanted is None else {*wanted, FILE_NAME}))

    if header is not None:
        header = tuple(dict.fromkeys("input_images" if name == FILE_NAME else name for name in header))
    return Source(name=str(metadata), read=read, header=header, has_other_columns=True, folder=path)
