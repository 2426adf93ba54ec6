"""One worker process of a node, from the inside: makes its partition's images and tells its parent how it goes.

Started by `workers` with the command line of its parent. On stdin comes one line, the `Orders`; then nothing, until the
end of stdin says that the parent is gone. On stdout go events, a JSON object a line.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from interlace.bulk.generator import Generator
from interlace.bulk.input.rows import BadRow, Job, Row
from interlace.bulk.launch.partition import Partition, PartitionRows
from interlace.bulk.output.sink import Sink, SinkOptions
from interlace.bulk.plan import RunOptions, jobs_to_do, survey
from interlace.bulk.progress import ProgressView, Tally, View
from interlace.bulk.report.report import Result
from interlace.bulk.run import make_images

VARIABLE = "INTERLACE_IS_WORKER"

Show = Callable[[Tally, Callable[[], float | None]], View]


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a worker is to do. All but the partition is for one that takes the place of a dead one."""

    partition: Partition
    is_restart: bool = False
    total: int | None = None  # images that the first of them was to make
    suspects: list[str] = field(default_factory=list)  # under way when a worker died: made last, one at a time
    condemned: dict[str, str] = field(default_factory=dict)  # not made again, and why

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**{**values, "partition": Partition(**values["partition"])})


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one bulk command is to do; every process of it has the same."""

    rows: Iterable[Row | BadRow]
    folder: Path
    options: RunOptions
    sink_options: SinkOptions
    overwrite: bool
    open_generator: Callable[[], Generator]


def is_worker() -> bool:
    return VARIABLE in os.environ


def run_worker(work: Work) -> int:
    """The whole life of a worker; returns its exit status."""
    orders = Orders.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, name="interlace-lifeline", daemon=True).start()
    events = Events()
    work = replace(work, options=replace(work.options, is_worker=True))
    result = run_partition(work, orders, events.show, lambda num_jobs: events.send("survey", to_do=num_jobs))
    events.send("end", status=result.exit_status, fatal=result.fatal)
    return result.exit_status


def run_partition(
    work: Work, orders: Orders, show: Show = ProgressView, on_survey: Callable[[int], None] = lambda num_jobs: None
) -> Result:
    """Makes one partition's images, into its parts of manifest, failures and summary; the caller holds the folder."""
    rows, options = PartitionRows(work.rows, orders.partition), work.options
    with Sink(
        work.folder,
        overwrite=work.overwrite,
        partition=orders.partition,
        is_restart=orders.is_restart,
        options=work.sink_options,
    ) as sink:
        found = survey(rows, sink, options)
        for bad in found.bad:
            sink.fail(bad, bad.error, "InvalidRequestError")
        for job in jobs_to_do(rows, sink, options) if orders.condemned else ():
            if job.name in orders.condemned:
                sink.fail(job, orders.condemned[job.name], "WorkerDiedError")
        num_jobs = found.num_to_do - len(orders.condemned)
        on_survey(num_jobs)
        jobs = _suspects_last(lambda: jobs_to_do(rows, sink, options), orders)
        made_before = 0 if orders.total is None else max(orders.total - len(orders.condemned) - num_jobs, 0)
        made = make_images(jobs, num_jobs, sink, options, work.open_generator, show, set(orders.suspects))
        num_failed = len(found.bad) + len(orders.condemned) + made.tally.failed
        result = Result(num_failed=num_failed, stopped_by=made.stopped_by, fatal=made.fatal)
        speed = {
            "done": made_before + made.tally.done,
            "retried": made.tally.retried,
            "seconds": round(made.tally.seconds, 3),
        }
        ended = {"failed": num_failed, "exit_status": result.exit_status, "fatal": result.fatal}
        sink.write_summary({"process": orders.partition.tag, **speed, **ended, **made.facts})
    return result


def _suspects_last(jobs: Callable[[], Iterator[Job]], orders: Orders) -> Iterator[Job]:
    apart = {*orders.suspects, *orders.condemned}
    yield from (job for job in jobs() if job.name not in apart)
    if orders.suspects:
        held = {job.name: job for job in jobs() if job.name in apart}
        yield from (held[name] for name in orders.suspects if name in held)


class Events:
    """The way to the parent. What libraries print goes to stderr from here on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, event: str, **facts: object) -> None:
        with self._lock:
            self._file.write(json.dumps({"event": event, **facts}) + "\n")
            self._file.flush()

    def show(self, tally: Tally, mean_rows: Callable[[], float | None]) -> "WorkerView":
        return WorkerView(self, tally, mean_rows)


class WorkerView:
    """Progress as events."""

    def __init__(self, events: Events, tally: Tally, mean_rows: Callable[[], float | None]) -> None:
        self._events, self._tally, self._mean_rows = events, tally, mean_rows

    def began(self, name: str) -> None:
        self._events.send("began", name=name)

    def ended(self, name: str) -> None:
        tally = self._tally
        self._events.send("ended", name=name, done=tally.done, failed=tally.failed, mean_rows=self._mean_rows())

    def message(self, text: str) -> None:
        self._events.send("message", text=text)

    def stop(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


def _end_with_parent() -> None:
    """A worker without a parent would hold the folder, and nobody would know."""
    while os.read(0, 4096):  # not through sys.stdin: at exit Python would wait for its lock
        pass
    os._exit(1)  # safe: files are whole or absent at every moment
