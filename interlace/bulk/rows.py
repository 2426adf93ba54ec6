"""Turns records of a prompt file into rows and jobs: checked ids, parameters and seeds; one job is one image.

What is wrong with a row is told with its place in the file, and does not stop the others. No torch, no files written.
"""

import difflib
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from interlace.bulk.formats import Record, check_file, read_records, table_header
from interlace.bulk.images import ImageSource
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams

WHOLE_COLUMNS = frozenset({"height", "width", "num_inference_steps", "seed", "num_images", "priority"})
NUMBER_COLUMNS = WHOLE_COLUMNS | {"guidance_scale", "true_cfg_scale", "strength"}
COLUMNS = NUMBER_COLUMNS | {"prompt", "id", "negative_prompt"}

# What other tools call our columns; used in hints only.
_OTHER_NAMES = {
    "caption": "prompt",
    "text": "prompt",
    "name": "id",
    "key": "id",
    "filename": "id",
    "steps": "num_inference_steps",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "n": "num_images",
    "num_images_per_prompt": "num_images",
    "negative": "negative_prompt",
}
_MAX_ID_BYTES = 200  # file systems allow 255 a name; some are needed for suffixes
_MAX_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to be made. `name` is its file name without the extension, and its request id."""

    row_id: str
    index: int  # of the row's images
    name: str
    prompt: str
    sampling: SamplingParams  # one image, with its seed
    images: tuple[ImageSource, ...] = ()  # to be edited


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prompt with its parameters; those that the file doesn't give come from the command line."""

    id: str
    where: str  # file:line
    prompt: str
    sampling: SamplingParams
    images: tuple[ImageSource, ...] = ()

    def names(self) -> list[str]:
        if self.sampling.num_images == 1:
            return [self.id]
        return [f"{self.id}_{index:02d}" for index in range(self.sampling.num_images)]

    def jobs(self, base_seed: int) -> Iterator[Job]:
        """One job an image. A row's own seed counts up over its images; without one, `image_seed` says."""
        for index, name in enumerate(self.names()):
            own = self.sampling.seed
            seed = image_seed(base_seed, self.id, index) if own is None else own + index
            sampling = replace(self.sampling, num_images=1, seed=seed)
            yield Job(row_id=self.id, index=index, name=name, prompt=self.prompt, sampling=sampling, images=self.images)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that can't be used, and why."""

    where: str
    error: str
    id: str | None = None
    prompt: str | None = None


def image_seed(base_seed: int, row_id: str, index: int) -> int:
    """The default seed of an image: 32 bits that do not depend on order, batch, shard or resume."""
    digest = hashlib.sha256(f"{base_seed}\0{row_id}\0{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class Rows:
    """The rows of one input, in order; can be gone through many times, and holds none of them."""

    records: Callable[[], Iterable[Record]]
    defaults: SamplingParams
    limit: int | None = None  # only so many rows from the start

    @classmethod
    def from_file(cls, path: Path, defaults: SamplingParams, limit: int | None = None) -> "Rows":
        """Raises `InvalidRequestError` for a file that can't be used, such as a table with a misspelt column."""
        check_file(path)
        header = table_header(path)
        if header is not None:
            problem = _unknown_columns(header) or ("" if "prompt" in header else f"no column prompt among {header}")
            if problem:
                raise InvalidRequestError(f"{path}:1: {problem}", "prompts_file")
        return cls(partial(read_records, path), defaults, limit)

    @classmethod
    def from_prompts(cls, prompts: Iterable[str], defaults: SamplingParams, limit: int | None = None) -> "Rows":
        records = [Record(f"--prompt {n}", {"prompt": prompt}) for n, prompt in enumerate(prompts, 1)]
        return cls(partial(iter, records), defaults, limit)

    def __iter__(self) -> Iterator[Row | BadRow]:
        taken: dict[str, str] = {}
        for number, record in enumerate(self.records()):
            if number == self.limit:
                return
            row = read_row(record, f"{number:06d}", self.defaults)
            yield row if isinstance(row, BadRow) else _claim_names(row, taken)


def _claim_names(row: Row, taken: dict[str, str]) -> Row | BadRow:
    """Two rows may not write the same file; the first one has it."""
    names = row.names()
    clash = next((name for name in names if name in taken), None)
    if clash is not None:
        error = f"the id {row.id!r} is not unique: {taken[clash]} writes {clash}.png already"
        return BadRow(where=row.where, error=error, id=row.id, prompt=row.prompt)
    taken.update(dict.fromkeys(names, row.where))
    return row


def read_row(record: Record, default_id: str, defaults: SamplingParams) -> Row | BadRow:
    """Checks one record. `default_id` names it where it doesn't name itself."""
    columns = {key: value for key, value in (record.columns or {}).items() if value is not None}
    prompt = columns.get("prompt")
    shown = prompt if isinstance(prompt, str) and _is_text(prompt) else None
    row_id = default_id
    try:
        if record.error is not None:
            raise InvalidRequestError(record.error)
        row_id = _checked_id(columns.get("id", default_id))
        sampling = _sampling(columns, defaults)
        return Row(id=row_id, where=record.where, prompt=_checked_prompt(prompt), sampling=sampling)
    except InvalidRequestError as error:
        return BadRow(where=record.where, error=str(error), id=row_id, prompt=shown)


def _sampling(columns: Mapping[str, Any], defaults: SamplingParams) -> SamplingParams:
    if problem := _unknown_columns(columns):
        raise InvalidRequestError(problem)
    values: dict[str, Any] = {
        name: _to_number(name, value) for name, value in columns.items() if name in NUMBER_COLUMNS
    }
    if "negative_prompt" in columns:
        values["negative_prompt"] = columns["negative_prompt"]
    sampling = replace(defaults, **values)
    if not _is_text(sampling.negative_prompt or ""):
        raise InvalidRequestError("the negative_prompt is not valid Unicode text (UTF-8 expected)")
    if sampling.num_images > _MAX_IMAGES:
        raise InvalidRequestError(f"num_images is {sampling.num_images}; expected at most {_MAX_IMAGES} a row")
    return sampling


def _unknown_columns(names: Iterable[str]) -> str:
    unknown = [name for name in names if name not in COLUMNS]
    if not unknown:
        return ""
    name = unknown[0]
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    near = [_OTHER_NAMES[plain]] if plain in _OTHER_NAMES else difflib.get_close_matches(plain, sorted(COLUMNS), 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(COLUMNS))}"
    return f"unknown column {name!r}; {hint}"


def _to_number(name: str, value: object) -> object:
    """Tables hold text, and some tools write 20 as 20.0. What isn't a number is left for `SamplingParams` to refuse."""
    if isinstance(value, str):
        try:
            value = float(value) if name not in WHOLE_COLUMNS or not value.strip().isdecimal() else int(value)
        except ValueError:
            return value
    if name in WHOLE_COLUMNS and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_text(value: str) -> bool:
    """False where bytes were not UTF-8 (they came in as lone surrogates)."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _checked_prompt(prompt: object) -> str:
    if prompt is None:
        raise InvalidRequestError("the row has no prompt")
    if not isinstance(prompt, str):
        raise InvalidRequestError(f"the prompt is {prompt!r}; expected a text")
    if not prompt.strip():
        raise InvalidRequestError("the prompt is empty")
    if not _is_text(prompt):
        raise InvalidRequestError("the prompt is not valid Unicode text (UTF-8 expected)")
    return prompt


def _checked_id(value: object) -> str:
    """An id names a file: it may not lead elsewhere, hide, or be too long for a name."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidRequestError(f"the id is {value!r}; expected a text or a whole number")
    text = str(value)
    problem = None
    if not text or text != text.strip():
        problem = "it is empty or has spaces around it"
    elif "/" in text or "\\" in text:
        problem = "it has a path separator in it"
    elif text.startswith("."):
        problem = "it starts with a dot"
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        problem = "it has control characters or broken Unicode in it"
    elif len(text.encode()) > _MAX_ID_BYTES:
        problem = f"it is longer than {_MAX_ID_BYTES} bytes"
    if problem:
        raise InvalidRequestError(f"the id {text[:80]!r} can't name a file: {problem}")
    return text
