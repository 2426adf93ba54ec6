"""What a bulk run has to do: the options it runs with, and which images of the input are not there yet."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from interlace.bulk.input.rows import BadRow, Job, Row
from interlace.bulk.made import Wanted
from interlace.bulk.output.names import NameList
from interlace.bulk.output.replaced import shortened
from interlace.bulk.output.sink import ModelId, Sink, State, request_key
from interlace.errors import InvalidRequestError

_MAX_SHOWN = 3  # of the pictures that would be replaced


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run needs to know besides its rows. `grace_s` is how long the first Ctrl-C waits for images under way."""

    model: ModelId
    base_seed: int = 0
    max_num_seqs: int = 16  # images that the generator works on at once
    num_writers: int = 2  # threads that encode and store; two keep up with any model that a CPU core can feed
    grace_s: float = 60.0
    max_retries: int = 2  # further attempts after an error that may pass
    every_row: bool = True  # the rows are the whole input, not a choice of it
    html: bool = True  # write report.html at the end
    export_parquet: bool = False  # write manifest.parquet at the end
    makes: Wanted = "pictures"  # what the model is expected to make
    is_worker: bool = False  # of a parent that hears signals and speaks to the user
    strict: bool = False  # a row that can't be used stops the run before it starts

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise InvalidRequestError(f"max_retries is {self.max_retries}; expected at least 0", "max_retries")

    @property
    def backlog(self) -> int:
        """Images handed to the generator at once: it must never wait for the next one."""
        return 2 * self.max_num_seqs


@dataclass
class Survey:
    """What there is to do, before any of it is done."""

    num_rows: int = 0
    names: NameList = field(default_factory=NameList)  # every image of the input, in order
    num_done: int = 0
    num_changed: int = 0
    num_replaced: int = 0  # images that would take the place of another prompt's
    replaced: list[str] = field(default_factory=list)  # the first of them, in words
    bad: list[BadRow] = field(default_factory=list)

    @property
    def num_to_do(self) -> int:
        return len(self.names) - self.num_done

    def check(self, *, strict: bool = False) -> None:
        """Raises `InvalidRequestError` where no row can be used; in a strict run, where any row can't."""
        first = f"; the first: {self.bad[0].where}: {self.bad[0].error}" if self.bad else ""
        if strict and self.bad:
            count = f"{len(self.bad)} of {self.num_rows} rows can't be used, and --strict wants all"
            raise InvalidRequestError(f"{count}{first}", "prompts_file")
        if not self.names:
            if not self.num_rows:
                raise InvalidRequestError(
                    "no rows: the input has none, or --rows and --where choose none", "prompts_file"
                )
            raise InvalidRequestError(f"no row can be used, of {self.num_rows}{first}", "prompts_file")
        if self.num_replaced:
            raise InvalidRequestError(self._overwriting(), "overwrite")

    def _overwriting(self) -> str:
        count = f"{self.num_replaced} of {len(self.names)} images would replace pictures of other prompts"
        more = self.num_replaced - len(self.replaced)
        shown = [*self.replaced, *([f"... and {more} more"] if more else [])]
        ways = "--match content finds rows that were moved; or give the rows ids, or take another --output-dir"
        return "\n  ".join([f"{count}; nothing was drawn:", *shown]) + f"\n{ways}; --overwrite replaces them"


class Ledger(Protocol):
    """What knows which images are there."""

    def state(self, job: Job, key: str) -> State: ...

    def replaces(self, job: Job) -> str | None:
        """What of another prompt would make way for this image; None where nothing would."""


def survey(rows: Iterable[Row | BadRow], ledger: Ledger, options: RunOptions) -> Survey:
    """Goes through the whole input once: cheap beside making images, and mistakes are told before the work starts."""
    found = Survey()
    for row in rows:
        found.num_rows += 1
        if isinstance(row, BadRow):
            found.bad.append(row)
            continue
        for job in row.jobs(options.base_seed):
            state = ledger.state(job, request_key(job, options.model))
            found.names.append(job.name)
            found.num_done += state == "done"
            found.num_changed += state == "changed"
            there = None if state == "done" or options.is_worker else ledger.replaces(job)
            if there is not None:
                found.num_replaced += 1
                if len(found.replaced) < _MAX_SHOWN:
                    found.replaced.append(f"{job.name}: {there} is there; {job.where} says {shortened(job.prompt)}")
    return found


def jobs_to_do(rows: Iterable[Row | BadRow], sink: Sink, options: RunOptions) -> Iterator[Job]:
    for row in rows:
        if isinstance(row, BadRow):
            continue
        for job in row.jobs(options.base_seed):
            if sink.state(job, request_key(job, options.model)) != "done":
                yield job
