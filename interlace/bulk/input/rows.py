"""Turns records of a prompt file into rows and jobs: checked ids, parameters and seeds; one job is one image.

What is wrong with a row is told with its place in the file, and does not stop the others. No torch, no files written.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from interlace.bulk.input.columns import OUR_NAMES, Columns
from interlace.bulk.input.formats import Record, open_source
from interlace.bulk.input.formats.encodings import is_text, not_unicode
from interlace.bulk.input.formats.record import is_nan
from interlace.bulk.input.media import ImageRules, ImageSource, one_image, parse_images, parse_media
from interlace.bulk.input.sampling import sampling_of
from interlace.bulk.input.selection import EVERY_ROW, Selection
from interlace.bulk.output.names import NameTable
from interlace.errors import InvalidRequestError
from interlace.models.sizes.door import SizeDoor
from interlace.python.given import with_control_images
from interlace.request import Request, SamplingParams

_MAX_ID_BYTES = 200  # file systems allow 255 a name; some are needed for suffixes
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
    mask: ImageSource | None = None  # white where to edit
    media: tuple[tuple[str, ImageSource], ...] = ()  # what a language model before sees and hears, by kind
    where: str = ""  # file:line of its row

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """Every file that it is made from: pictures to be edited, the mask, those of its controls, other media."""
        choices = (*(self.sampling.controlnet or ()), *(self.sampling.ip_adapter or ()))
        masks = () if self.mask is None else (self.mask,)
        return (*self.images, *masks, *(one.image for one in choices), *(source for _, source in self.media))

    def request(self, images: Sequence[Any] = ()) -> Request:
        """What the engine is asked for, with the pictures loaded."""
        return Request(request_id=self.name, prompt=self.prompt, sampling=self.sampling, images=images)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prompt with its parameters; those that the file doesn't give come from the command line."""

    id: str
    where: str  # file:line
    prompt: str
    sampling: SamplingParams
    images: tuple[ImageSource, ...] = ()
    mask: ImageSource | None = None
    media: tuple[tuple[str, ImageSource], ...] = ()
    is_numbered: bool = False  # it has no id of its own

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
                mask=self.mask,
                media=self.media,
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
    """The default seed of an image: 32 bits that do not depend on order, batch, partition or resume."""
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
    first: int = 0  # the number of the first row: that of a row is its id where it has none
    namer: Callable[[], Callable[[Row], str]] | None = None  # other ids than numbers; called anew for every reading
    sizes: SizeDoor | None = None  # of the model; None: nothing is known of it before it is asked
    unread: str | None = None  # what is said of columns that nothing is done with
    adds: bool = False  # to a folder: rows of the command line have no place in a file that would number them

    @classmethod
    def from_file(
        cls,
        given: str | Path,
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
        source = open_source(given, split, subset)
        unread, columns = columns.unread(source), columns.for_source(source)
        wanted = None
        if source.header is not None:
            wanted = columns.wanted(source.header) | {condition.column for condition in selection.where}
            selection.check(source.name, {*source.header, *columns.known})
        return cls(partial(source.read, wanted), defaults, selection, columns, source.folder, images, unread=unread)

    @classmethod
    def from_prompts(cls, prompts: Iterable[str], defaults: SamplingParams, selection: Selection = EVERY_ROW) -> "Rows":
        records = [Record(f"--prompt {n}", {"prompt": prompt}) for n, prompt in enumerate(prompts, 1)]
        return cls(partial(iter, records), defaults, selection, adds=True)

    @classmethod
    def from_images(
        cls,
        images: Iterable[str],
        instructions: Iterable[str],
        defaults: SamplingParams,
        selection: Selection = EVERY_ROW,
        rules: ImageRules = _ANY_IMAGES,
        mask: str | None = None,
    ) -> "Rows":
        """One row an instruction, each about all of the images, under one mask if there is one."""
        cells = {"input_images": list(images)} | ({} if mask is None else {"mask": mask})
        named = enumerate(instructions, 1)
        records = [Record(f"--prompt {n}", {"instruction": text, **cells}) for n, text in named]
        return cls(partial(iter, records), defaults, selection, Columns(task="edit"), Path(), rules, adds=True)

    def __iter__(self) -> Iterator[Row | BadRow]:
        taken, named = NameTable(), self.namer() if self.namer else None
        for number, record in self._selected():
            default_id = f"{self.first + number:06d}"
            row = read_row(record, default_id, self.defaults, self.columns, self.folder, self.images, self.sizes)
            if isinstance(row, Row) and row.is_numbered and named is not None:
                row = replace(row, id=named(row))
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
    sizes: SizeDoor | None = None,
) -> Row | BadRow:
    """Checks one record. `default_id` names it where it doesn't name itself."""
    row_id, shown = default_id, None
    try:
        if record.error is not None:
            raise InvalidRequestError(record.error)
        given = record.columns or {}
        cells = columns.rename(given)
        if is_nan(cells.get("id")):
            del cells["id"]
        prompt = cells.get("prompt")
        shown = prompt if isinstance(prompt, str) and is_text(prompt) else None
        row_id = _checked_id(cells.get("id", default_id))
        sampling = sampling_of(cells, defaults)
        if prompt is None and (columns.task != "answer" or "multi_modal_data" not in cells):
            raise InvalidRequestError(columns.missing_prompt(given))
        prompt = "" if prompt is None else _checked_prompt(prompt)  # a question may be asked aloud
        sources = parse_images(cells.get("input_images"), folder, images) if _has_images(cells, columns) else ()
        sampling = with_control_images(sampling, lambda cell: one_image("a control's image", cell, folder, images))
        if sizes is not None:
            sizes.check(sampling)
        return Row(
            id=row_id,
            where=record.where,
            prompt=prompt,
            sampling=sampling,
            images=sources,
            mask=one_image("the mask", cells["mask"], folder, images) if "mask" in cells else None,
            media=parse_media(cells.get("multi_modal_data"), folder, images),
            is_numbered="id" not in cells,
        )
    except InvalidRequestError as error:
        return BadRow(where=record.where, error=str(error), id=row_id, prompt=shown)


def _has_images(cells: Mapping[str, Any], columns: Columns) -> bool:
    """Whether the row is about pictures: an edit always, a film where it says which."""
    return columns.task == "edit" or (columns.task == "t2v" and cells.get("input_images") not in (None, ""))


def _checked_prompt(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise InvalidRequestError(f"the prompt is {prompt!r}; expected a text")
    if not prompt.strip():
        raise InvalidRequestError("the prompt is empty")
    if not is_text(prompt):
        raise InvalidRequestError(f"the prompt is {not_unicode(prompt)}")
    return prompt


def _checked_id(value: object) -> str:
    """An id names a file: it may not lead elsewhere, hide, or be too long for a name. Whole floats are whole numbers:
    a column of numbers with one missing is floats in many tools."""
    if isinstance(value, Real) and not isinstance(value, int) and float(value).is_integer():
        value = int(value) if isinstance(value, Integral) else int(float(value))
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
