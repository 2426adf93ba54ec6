"""What the columns of an input are called: our names, theirs where the user says so, and hints for near misses."""

import difflib
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from interlace.bulk.input.formats import Source
from interlace.errors import InvalidRequestError

WHOLE_COLUMNS = frozenset(
    {
        "height",
        "width",
        "num_inference_steps",
        "seed",
        "num_images",
        "num_frames",
        "priority",
        "max_tokens",
        "top_k",
        "max_speech_tokens",
    }
)
_ANSWER_NUMBERS = frozenset(
    {"max_tokens", "max_speech_tokens", "temperature", "top_p", "top_k"}
)  # of what a language model writes
_LENGTHS = frozenset({"fps", "seconds", "flow_shift", "guidance_scale_2"})  # of films and sounds
NUMBER_COLUMNS = (
    WHOLE_COLUMNS | _LENGTHS | _ANSWER_NUMBERS | {"guidance_scale", "true_cfg_scale", "strength", "hold_guidance_after"}
)
PLAIN_COLUMNS = frozenset(
    {"negative_prompt", "lora", "sampler", "controlnet", "ip_adapter", "voice"}
)  # as they are, for `SamplingParams` to read
COLUMNS = (NUMBER_COLUMNS | PLAIN_COLUMNS | {"prompt", "id", "multi_modal_data"}) - _ANSWER_NUMBERS - {"voice"}
_FILM, _LASTING, _SIZES = frozenset({"num_frames", "fps"}), frozenset({"seconds"}), frozenset({"height", "width"})
EXTRA_COLUMNS = frozenset({"guidance_scale_2", "voice"}) | _ANSWER_NUMBERS  # further arguments of some models' own
EDIT_COLUMNS = COLUMNS | {"input_images", "instruction", "mask"}
_MEDIA = frozenset({"image", "audio", "video"})
ANSWER_COLUMNS = _ANSWER_NUMBERS | _MEDIA | {"prompt", "id", "seed", "voice", "multi_modal_data"}

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
    "image": "input_images",
    "images": "input_images",
    "input_image": "input_images",
    "mask_image": "mask",
}


# Whose columns they are where the command at hand has no use for them; told of `t2i` and `edit`, and of `t2a`.
_OF_FILMS = {**dict.fromkeys(_FILM, "`interlace t2v`"), "seconds": "`interlace t2v` and `interlace t2a`"}
_NOT_OF_SOUNDS = {
    **dict.fromkeys(_FILM, "`interlace t2v`"),
    **dict.fromkeys((*_SIZES, "size"), "`interlace t2i` and `interlace t2v`"),
}

_MAX_UNREAD = 8  # columns of a data set that are named as not read

BulkTask = Literal["t2i", "edit", "t2v", "t2a", "answer"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """How the columns of one input are read. `ignore_unknown` None: as is usual for the format."""

    task: BulkTask = "t2i"
    theirs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # our name -> the input's
    ignore_unknown: bool | None = None

    def __post_init__(self) -> None:
        for ours in self.theirs:
            if ours not in self.known:
                told = self._of_another_command(ours) or _hint(ours, self.known)
                raise InvalidRequestError(f"--column {ours}=...: {told}", "column")
        if "instruction" in self.theirs and "prompt" in self.theirs:
            raise InvalidRequestError("--prompt-column and --instruction-column say the same; give one", "column")

    @property
    def known(self) -> frozenset[str]:
        if self.task == "answer":
            return ANSWER_COLUMNS
        if self.task == "t2v":
            return COLUMNS | {"input_images", "image"}
        if self.task == "t2a":
            return COLUMNS - _FILM - _SIZES
        return (EDIT_COLUMNS if self.task == "edit" else COLUMNS) - _FILM - _LASTING

    def for_source(self, source: Source) -> Self:
        """Settled for one input. Raises `InvalidRequestError` where its header lacks a column that is needed."""
        ignore = source.has_other_columns if self.ignore_unknown is None else self.ignore_unknown
        settled = replace(self, ignore_unknown=ignore)
        if source.header is not None:
            settled._check_header(source.name, source.header)
        return settled

    def wanted(self, header: Iterable[str]) -> set[str]:
        """The columns of the input that are read."""
        return {name for name in header if name in self.known} | self._taken()

    def unread(self, source: Source) -> str | None:
        """What is said of a data set's columns that nothing is done with, since nobody said to ignore them."""
        if self.ignore_unknown is not None or not source.has_other_columns or source.header is None:
            return None
        names = [name for name in source.header if name not in self.known | self._taken()]
        named = sorted(((self._whose(name), name) for name in names), key=lambda pair: pair[0] == "")
        shown = ", ".join(name + why for why, name in named[:_MAX_UNREAD])
        more = f" and {len(named) - _MAX_UNREAD} more" if len(named) > _MAX_UNREAD else ""
        return f"columns of {source.name} that are not read: {shown}{more}" if named else None

    def rename(self, columns: Mapping[str, object]) -> dict[str, object]:
        """A record's cells under our names. Raises `InvalidRequestError` for a column that isn't known."""
        ours = dict(columns)
        if self.theirs:
            taken = self._taken()
            ours = {name: cell for name, cell in columns.items() if name not in taken and name not in self.theirs}
            ours |= {name: _joined(columns, theirs) for name, theirs in self.theirs.items()}
        unknown = [name for name in ours if name not in self.known]
        if unknown and not self.ignore_unknown:
            raise InvalidRequestError(self._unknown(unknown[0]))
        ours = {name: cell for name, cell in ours.items() if cell is not None and name in self.known}
        if self.task == "t2v" and "image" in ours:
            ours["input_images"] = ours.pop("image")
        if self.task == "answer" and (media := {kind: ours.pop(kind) for kind in sorted(_MEDIA & ours.keys())}):
            if "multi_modal_data" in ours:
                raise InvalidRequestError(f"the row has multi_modal_data and {', '.join(media)}; expected one of them")
            ours["multi_modal_data"] = media
        if "instruction" in ours:
            if "prompt" in ours:
                raise InvalidRequestError("the row has a prompt and an instruction; name one with --instruction-column")
            ours["prompt"] = ours.pop("instruction")
        return ours

    def missing_prompt(self, columns: Mapping[str, object]) -> str:
        """Why there is no prompt in a row with these columns."""
        for flag in ("prompt", "instruction"):
            if flag in self.theirs:
                return f"the row has no {self.theirs[flag][0]} (--{flag}-column)"
        shown = ", ".join(map(str, list(columns)[:12]))
        return f"the row has no prompt; it has {shown} (--prompt-column names another)" if shown else "no prompt"

    def _taken(self) -> set[str]:
        return {name for theirs in self.theirs.values() for name in theirs}

    def _check_header(self, source: str, header: tuple[str, ...]) -> None:
        for ours, theirs in self.theirs.items():
            lost = next((name for name in theirs if name not in header), None)
            if lost is not None:
                close = difflib.get_close_matches(lost, header, 1)
                hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(header)}"
                raise InvalidRequestError(f"{source} has no column {lost!r} for {ours}; {hint}", "column")
        self._offer_lone_column(source, header)
        unknown = [name for name in header if name not in self.known | self._taken()]
        if unknown and not self.ignore_unknown:
            raise InvalidRequestError(f"{source}:1: {self._unknown(unknown[0])}", "prompts_file")
        prompts = {"prompt", "instruction"} & (set(self.known) if self.task == "edit" else {"prompt"})
        prompts |= _MEDIA & self.known if self.task == "answer" else set()
        if not prompts & (set(header) | set(self.theirs)):
            near = next((name for name in header if _meant(name) == "prompt"), None)
            hint = f"--prompt-column {near}?" if near else "name it with --prompt-column"
            raise InvalidRequestError(f"{source}:1: no column prompt among {', '.join(header)}; {hint}", "prompts_file")

    def _offer_lone_column(self, source: str, header: tuple[str, ...]) -> None:
        """A table of one column has its prompts there, whatever that is called; or its first prompt is its header."""
        if len(header) != 1 or header[0] in self.known or self.theirs:
            return
        first = " ".join(header[0].split())
        if len(first.split()) > 2:
            hint = f"write prompt above it, or name the file {Path(source).stem}.txt (one prompt a line)"
            raise InvalidRequestError(
                f"{source}:1: the first line {first[:60]!r} is no column name; {hint}", "prompts_file"
            )
        hint = f"its only column is {first!r}: take it with --prompt-column {shlex.quote(header[0])}"
        raise InvalidRequestError(f"{source}:1: no column prompt; {hint}", "prompts_file")

    def _command_for(self, name: object) -> str | None:
        """The other command, or commands, that have a use for a column."""
        if self.task == "answer":
            return None
        whose = {"t2v": {}, "t2a": _NOT_OF_SOUNDS}.get(self.task, _OF_FILMS).get(str(name))
        return whose or ("`interlace edit`" if name in EDIT_COLUMNS - self.known else None)

    def _of_another_command(self, name: object) -> str | None:
        """What is said of such a column."""
        whose = self._command_for(name)
        return None if whose is None else f"the column {name!r} is for {whose}; leave it out"

    def _whose(self, name: str) -> str:
        """What a column that is not read may have been meant to be."""
        if (command := self._command_for(name)) is not None:
            return f" (for {command})"
        other = _meant(name)
        near = [other] if other in self.known else difflib.get_close_matches(_plain(name), sorted(self.known), 1, 0.75)
        return f" ({near[0]}?)" if near else ""

    def _unknown(self, name: object) -> str:
        told = self._of_another_command(name)
        if told is not None:
            return f"{told} (or --ignore-unknown-columns)"
        hint = _hint(str(name), self.known)
        if _meant(str(name)) == "prompt" and "prompt" not in self.theirs:
            return f"{hint} --prompt-column {shlex.quote(str(name))} takes it"
        return f"{hint} (or --ignore-unknown-columns)"


OUR_NAMES = Columns()


def _joined(columns: Mapping[str, Any], theirs: tuple[str, ...]) -> Any:
    """The cell of one column, or those of several as one list."""
    if len(theirs) == 1:
        return columns.get(theirs[0])
    cells = [cell for name in theirs if (cell := columns.get(name)) is not None]
    return [part for cell in cells for part in (cell if isinstance(cell, list) else [cell])] or None


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _meant(name: str) -> str | None:
    return _OTHER_NAMES.get(_plain(name))


def _hint(name: str, known: Collection[str]) -> str:
    plain, other = _plain(name), _meant(name)
    near = [other] if other and other in known else difflib.get_close_matches(plain, sorted(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown column {name!r}; {hint}"
