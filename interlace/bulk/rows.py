"""Turns records of a prompt file into rows and jobs: checked ids, parameters and seeds; one job is one image.

What is wrong with a row is told with its place in the file, and does not stop the others. No torch, no files written.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from interlace.bulk.columns import NUMBER_COLUMNS, OUR_NAMES, WHOLE_COLUMNS, Columns
from interlace.bulk.formats import Record, open_source
from interlace.bulk.images import ImageRules, ImageSource, parse_images
from interlace.bulk.names import NameTable
from interlace.bulk.selection import EVERY_ROW, Selection
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams

_MAX_ID_BYTES = 200  # file systems allow 255 a name; some are needed for suffixes
_MAX_IMAGES = 10_000
_ANY_IMAGES = ImageRules()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to be made. `name` is its file name without the extension, and its request id."""

    row_id: str
    index: int  # of the row's images
    name: str
    prompt: str
    sampling: SamplingParams  # one image, with its seed
    images: tuple[ImageSource, ...] = ()  # to be edited
    where: str = ""  # file:line of its row


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
            yield Job(
                row_id=self.id,
                index=index,
                name=name,
                prompt=self.prompt,
                sampling=sampling,
                images=self.images,
                where=self.where,
            )


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
    selection: Selection = EVERY_ROW
    columns: Columns = OUR_NAMES
    folder: Path = Path()  # what relative paths of images are relative to
    images: ImageRules = _ANY_IMAGES

    @classmethod
    def from_file(
        cls,
        place: str | Path,
        defaults: SamplingParams,
        selection: Selection = EVERY_ROW,
        columns: Columns = OUR_NAMES,
        *,
        images: ImageRules = _ANY_IMAGES,
        split: str | None = None,
        subset: str | None = None,
    ) -> "Rows":
        """A file, folder or dataset. Raises `InvalidRequestError` for one that can't be used, such as a table with a
        misspelt column."""
        source = open_source(place, split, subset)
        columns = columns.for_source(source)
        wanted = None
        if source.header is not None:
            wanted = columns.wanted(source.header) | {condition.column for condition in selection.where}
            selection.check(source.name, {*source.header, *columns.known})
        return cls(partial(source.read, wanted), defaults, selection, columns, source.folder, images)

    @classmethod
    def from_prompts(
        cls,
        prompts: Iterable[str],
        defaults: SamplingParams,
        selection: Selection = EVERY_ROW,
    ) -> "Rows":
        records = [Record(f"--prompt {n}", {"prompt": prompt}) for n, prompt in enumerate(prompts, 1)]
        return cls(partial(iter, records), defaults, selection)

    @classmethod
    def from_images(
        cls,
        images: Iterable[str],
        instructions: Iterable[str],
        defaults: SamplingParams,
        selection: Selection = EVERY_ROW,
        rules: ImageRules = _ANY_IMAGES,
    ) -> "Rows":
        """One row an instruction, each about all of the images."""
        cell = list(images)
        named = enumerate(instructions, 1)
        records = [Record(f"--prompt {n}", {"instruction": text, "input_images": cell}) for n, text in named]
        return cls(partial(iter, records), defaults, selection, Columns(task="edit"), Path(), rules)

    def __iter__(self) -> Iterator[Row | BadRow]:
        taken = NameTable()
        for number, record in self._selected():
            row = read_row(record, f"{number:06d}", self.defaults, self.columns, self.folder, self.images)
            yield row if isinstance(row, BadRow) else _claim_names(row, taken)

    def _selected(self) -> Iterator[tuple[int, Record]]:
        """Records with their numbers. One that can't be read is told, whatever the conditions."""
        bounds = self.selection.bounds(lambda: sum(1 for _ in self.records()))
        numbered: Iterator[tuple[int, Record]] = islice(enumerate(self.records()), *bounds)
        if self.selection.where:
            others = asdict(self.defaults)
            numbered = ((number, record) for number, record in numbered if self._meets(record, others))
        yield from islice(numbered, self.selection.limit)

    def _meets(self, record: Record, others: Mapping[str, Any]) -> bool:
        if record.columns is None:
            return True
        cells = {**others, **{name: cell for name, cell in record.columns.items() if cell is not None}}
        cells |= {ours: cells[theirs[0]] for ours, theirs in self.columns.theirs.items() if theirs[0] in cells}
        cells.setdefault("prompt", cells.get("instruction"))
        return all(condition.holds(cells.get(condition.column)) for condition in self.selection.where)


def _claim_names(row: Row, taken: NameTable) -> Row | BadRow:
    """Two rows may not write the same file; the first one has it."""
    clash = taken.claim(row.names(), row.where)
    if clash is None:
        return row
    name, where = clash
    error = f"the id {row.id!r} is not unique: {where} writes {name}.png already"
    return BadRow(where=row.where, error=error, id=row.id, prompt=row.prompt)


def read_row(
    record: Record,
    default_id: str,
    defaults: SamplingParams,
    columns: Columns = OUR_NAMES,
    folder: Path = Path(),
    images: ImageRules = _ANY_IMAGES,
) -> Row | BadRow:
    """Checks one record. `default_id` names it where it doesn't name itself."""
    row_id, shown = default_id, None
    try:
        if record.error is not None:
            raise InvalidRequestError(record.error)
        given = record.columns or {}
        cells = columns.rename(given)
        prompt = cells.get("prompt")
        shown = prompt if isinstance(prompt, str) and _is_text(prompt) else None
        row_id = _checked_id(cells.get("id", default_id))
        sampling = _sampling(cells, defaults)
        if prompt is None:
            raise InvalidRequestError(columns.missing_prompt(given))
        prompt = _checked_prompt(prompt)
        sources = parse_images(cells.get("input_images"), folder, images) if columns.task == "edit" else ()
        return Row(id=row_id, where=record.where, prompt=prompt, sampling=sampling, images=sources)
    except InvalidRequestError as error:
        return BadRow(where=record.where, error=str(error), id=row_id, prompt=shown)


def _sampling(cells: Mapping[str, Any], defaults: SamplingParams) -> SamplingParams:
    values: dict[str, Any] = {name: _to_number(name, value) for name, value in cells.items() if name in NUMBER_COLUMNS}
    if "negative_prompt" in cells:
        values["negative_prompt"] = cells["negative_prompt"]
    sampling = replace(defaults, **values) if values else defaults
    if not _is_text(sampling.negative_prompt or ""):
        raise InvalidRequestError("the negative_prompt is not valid Unicode text (UTF-8 expected)")
    if sampling.num_images > _MAX_IMAGES:
        raise InvalidRequestError(f"num_images is {sampling.num_images}; expected at most {_MAX_IMAGES} a row")
    return sampling


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
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_prompt(prompt: object) -> str:
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
    elif not text.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        problem = "it has control characters or broken Unicode in it"
    elif len(text.encode()) > _MAX_ID_BYTES:
        problem = f"it is longer than {_MAX_ID_BYTES} bytes"
    if problem:
        raise InvalidRequestError(f"the id {text[:80]!r} can't name a file: {problem}")
    return text
