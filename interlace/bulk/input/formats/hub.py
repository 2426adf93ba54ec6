"""Hugging Face datasets: one on the hub, streamed, or one that `save_to_disk` wrote, memory-mapped."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interlace.bulk.input.formats.record import Record, Source, Wanted, without_nan
from interlace.errors import InvalidRequestError

_SCHEMES = ("hf://datasets/", "hf://")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")


def hub_id(given: str) -> str | None:
    """The id of a dataset on the hub: `owner/name` or `hf://datasets/owner/name`; None for anything else."""
    for scheme in _SCHEMES:
        if given.startswith(scheme):
            return given.removeprefix(scheme)
    return given if _ID.fullmatch(given) else None


def is_saved_dataset(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


def hub_source(name: str, split: str | None, subset: str | None) -> Source:
    datasets = _datasets(name)
    try:
        loaded = datasets.load_dataset(name, subset, streaming=True)
    except Exception as error:  # of the hub, the network, pyarrow, fsspec: no common base
        words = " ".join(str(error).split())
        raise InvalidRequestError(f"can't open the dataset {name}: {type(error).__name__}: {words}", "prompts_file") \
            from error  # fmt: skip
    return _source(name, _split(name, loaded, split), Path())


def saved_source(folder: Path, split: str | None) -> Source:
    datasets = _datasets(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        words = " ".join(str(error).split())
        raise InvalidRequestError(f"can't open the dataset in {folder}: {words}", "prompts_file") from error
    return _source(str(folder), _split(str(folder), loaded, split), folder)


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        how = "pip install 'interlace[datasets]' installs it"
        raise InvalidRequestError(f"reading the dataset {name} needs the package datasets; {how}", "prompts_file") \
            from None  # fmt: skip
    return datasets


def _split(name: str, loaded: Any, split: str | None) -> Any:
    """The one split, or the one that was asked for. A dataset without splits is one itself."""
    if not isinstance(loaded, dict):
        if split is None or str(loaded.split) == split:
            return loaded
        raise InvalidRequestError(f"{name} has no split {split!r}; it is one dataset: leave --split out", "split")
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split not in loaded:
        got = f"has no split {split!r}" if split else f"has {len(loaded)} splits"
        raise InvalidRequestError(f"{name} {got}; expected --split with one of {', '.join(loaded)}", "split")
    return loaded[split]


def _source(name: str, dataset: Any, folder: Path) -> Source:
    header = tuple(dataset.column_names) if dataset.column_names else None
    label = f"{name}/{dataset.split}" if dataset.split else name

    def read(wanted: Wanted) -> Iterator[Record]:
        chosen = dataset
        if header is not None and wanted is not None:
            chosen = chosen.select_columns([column for column in header if column in wanted])
        rows = iter(_undecoded(chosen))
        number = 0
        while True:
            number += 1
            try:
                columns = next(rows)
            except StopIteration:
                return
            except Exception as error:  # anything that a dataset's own reader raises
                words = f"{type(error).__name__}: {' '.join(str(error).split())}"
                yield Record(f"{label}:{number}", error=f"can't read on in this dataset: {words}")
                return
            yield Record(f"{label}:{number}", without_nan(columns))

    return Source(name=name, read=read, header=header, has_other_columns=True, folder=folder)


def _undecoded(dataset: Any) -> Any:
    """Pictures stay the bytes or the path that they are until somebody needs one."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset
