"""A bulk run: rows in, images in a folder out. Keeps a short backlog in the generator and writes on other threads.

Knows neither pipelines nor file formats: rows come from `rows`, images from a `Generator`, files go to a `Sink`.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from interlace import __version__
from interlace.bulk.faults import fault_point
from interlace.bulk.generator import Generator
from interlace.bulk.input.rows import BadRow, Job, Row
from interlace.bulk.launch.signals import signals_go_to
from interlace.bulk.made import NOUNS, facts_of, made_of
from interlace.bulk.output.disk import why_not_written
from interlace.bulk.output.failures import is_transient
from interlace.bulk.output.sink import Sink, request_key
from interlace.bulk.plan import RunOptions, jobs_to_do, survey
from interlace.bulk.progress import ProgressView, Tally, View
from interlace.bulk.report.report import Result, announce, report
from interlace.bulk.report.summary import peak_memory
from interlace.errors import EngineDeadError
from interlace.request import Output
from interlace.retry import pause_s

_POLL_S = 0.2
_LET_GO_S = 10.0  # past the grace time: by then a request that was aborted has come to the end of its forward


def run_bulk(
    rows: Iterable[Row | BadRow], sink: Sink, options: RunOptions, open_generator: Callable[[], Generator]
) -> Result:
    """Makes every image that isn't there yet. `open_generator` is called only when there is something to make.

    Raises `InvalidRequestError` when no row can be used, and whatever `open_generator` raises.
    """
    started = time.perf_counter()
    found = survey(rows, sink, options)
    for bad in found.bad:
        sink.fail(bad, bad.error, "InvalidRequestError")
    found.check(strict=options.strict)
    announce(found, sink, NOUNS[options.makes])
    made = make_images(jobs_to_do(rows, sink, options), found.num_to_do, sink, options, open_generator)
    result = Result(num_failed=len(found.bad) + made.tally.failed, stopped_by=made.stopped_by, fatal=made.fatal)
    facts = {**made.facts, "seconds": round(time.perf_counter() - started, 3)}
    if options.every_row and result.stopped_by is None and result.fatal is None:
        sink.forget_earlier_failures()
    files = {"html": options.html, "export_parquet": options.export_parquet, "every_row": options.every_row}
    report(found, made.tally, sink, options.model.model, facts, result, **files)
    return result


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of the jobs of one generator."""

    tally: Tally
    facts: dict[str, Any] = field(default_factory=dict)
    stopped_by: int | None = None
    fatal: str | None = None


def make_images(
    jobs: Iterable[Job],
    num_jobs: int,
    sink: Sink,
    options: RunOptions,
    open_generator: Callable[[], Generator],
    show: Callable[[Tally, Callable[[], float | None]], View] = ProgressView,
    one_at_a_time: Container[str] = (),
) -> Made:
    """Makes and stores the images of `jobs`; `one_at_a_time` names those that nothing else may run beside."""
    tally = Tally(num_jobs, NOUNS[options.makes])
    if not num_jobs:
        return Made(tally=tally)
    generator = open_generator()
    try:
        run = _BulkRun(generator, sink, options, tally, show(tally, generator.mean_rows))
        run.execute(jobs, one_at_a_time)
        return Made(
            tally=tally, facts={**generator.facts(), **peak_memory()}, stopped_by=run.stopped_by, fatal=run.fatal
        )
    finally:
        generator.close()


class _BulkRun:
    """The part of a run that has a generator: submits, collects, stores."""

    def __init__(self, generator: Generator, sink: Sink, options: RunOptions, tally: Tally, view: View) -> None:
        self.generator, self.sink, self.options, self.tally = generator, sink, options, tally
        self.stopped_by: int | None = None
        self.fatal: str | None = None
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._slots = threading.Semaphore(options.backlog)
        self._lock = threading.Lock()
        self._generating: dict[str, Job] = {}  # in the order of submission
        self._attempts: dict[str, int] = {}  # of images that did not come at the first one
        self._num_open = 0  # submitted and not yet stored
        self._writers = ThreadPoolExecutor(options.num_writers, thread_name_prefix="interlace-writer")
        self.view = view

    def execute(self, jobs: Iterable[Job], one_at_a_time: Container[str] = ()) -> None:
        self.tally.started = time.perf_counter()
        with self._writers, self.view, signals_go_to(self._on_signal):
            left = iter(jobs)
            with self.generator.gathering():
                self._submit_all(itertools.islice(left, self.options.max_num_seqs), one_at_a_time)
            self._submit_all(left, one_at_a_time)
            self._drain()

    def _submit_all(self, jobs: Iterable[Job], one_at_a_time: Container[str]) -> None:
        for job in jobs:
            if job.name in one_at_a_time:
                self._drain()
            if not self._take_slot():
                break
            self.view.began(job.name)
            fault_point(f"began {job.name}")
            with self._lock:
                self._generating[job.name] = job
                self._num_open += 1
            self.generator.submit(job).add_done_callback(self._on_done(job))

    def _take_slot(self) -> bool:
        """Waits until the backlog has room; False when the run is to stop. Polls so that signals get their turn."""
        while not self._stop.is_set():
            if self._slots.acquire(timeout=_POLL_S):
                return not self._stop.is_set()
        return False

    def _drain(self) -> None:
        """Waits for what is in flight. In a run that is to stop, what queues is aborted; past the grace time, all. One
        forward that goes on and on doesn't keep the process."""
        while self._num_open:
            time.sleep(_POLL_S / 10)
            if self._stop.is_set():
                over = time.perf_counter() - self._deadline
                if self.stopped_by is not None and over > _LET_GO_S:
                    self._end_at_once(self.stopped_by)
                late = over > 0
                with self._lock:
                    queued = list(self._generating.values())[0 if late else self.options.max_num_seqs :]
                for job in queued:
                    self.generator.abort(job)

    def _on_done(self, job: Job) -> Callable[["Future[Output]"], None]:
        def hand_over(future: "Future[Output]") -> None:
            with self._lock:
                self._generating.pop(job.name)
            self._writers.submit(self._store, job, future.result())

        return hand_over

    def _store(self, job: Job, output: Output) -> None:
        if output.error is not None and self._is_worth_another(job, output.error):
            threading.Thread(target=self._try_again, args=(job,), daemon=True).start()
            return
        try:
            try:
                self._store_or_fail(job, output)
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk's; one without a number is of the image alone
                self._fail(job, error)
        except OSError as error:
            self._give_up(why_not_written(self.sink.folder, error))
        finally:
            self._end(job)

    def _end(self, job: Job) -> None:
        with self._lock:
            self._num_open -= 1
        self._slots.release()
        self.view.ended(job.name)

    def _is_worth_another(self, job: Job, error: Exception) -> bool:
        with self._lock:
            attempts = self._attempts.get(job.name, 1)
            if self._stop.is_set() or attempts > self.options.max_retries or not is_transient(error):
                return False
            self._attempts[job.name] = attempts + 1
        self.view.message(f"{job.name}: attempt {attempts + 1} follows, as this may pass: {_one_line(error)}")
        return True

    def _try_again(self, job: Job) -> None:
        """It keeps its place in the backlog meanwhile."""
        self._stop.wait(pause_s(self._attempts[job.name] - 1))
        if self._stop.is_set():
            self._end(job)
            return
        with self._lock:
            self._generating[job.name] = job
        self.generator.submit(job).add_done_callback(self._on_done(job))

    def _store_or_fail(self, job: Job, output: Output) -> None:
        if output.error is not None and self._stop.is_set():
            return  # aborted because the run stops: neither done nor failed, the next run makes it
        if isinstance(output.error, EngineDeadError):
            self._give_up(str(output.error))
        elif output.error is not None:
            self._fail(job, output.error)
        else:
            made = made_of(output, self.options.makes)
            self.sink.write(job, made, self._record(job, output, facts_of(made)), _timing(output))
            with self._lock:
                self.tally.done += 1
                self.tally.retried += job.name in self._attempts

    def _record(self, job: Job, output: Output, facts: Mapping[str, Any]) -> dict[str, Any]:
        model, sampling = self.options.model, job.sampling
        record: dict[str, Any] = {"prompt": job.prompt, "negative_prompt": sampling.negative_prompt}
        record["seed"] = sampling.seed
        record |= dict(self.generator.resolved(job)) | dict(facts)
        record |= {"model": model.model, "revision": model.revision, "variant": model.variant}
        record["text"] = output.text  # what a language model's stage wrote
        if job.pictures:
            record["input_images"] = [source.name for source in job.pictures]
            record["input_sha256"] = [source.sha256 for source in job.pictures]
        record |= {"interlace": __version__, "request_key": request_key(job, model)}
        return {name: value for name, value in record.items() if value is not None}

    def _fail(self, job: Job, error: Exception) -> None:
        kind = type(error).__name__
        self.sink.fail(job, str(error) or kind, kind, self._attempts.get(job.name, 1))
        with self._lock:
            self.tally.failed += 1
            self.tally.failed_by_kind[kind] += 1
        self.view.message(f"{job.name} failed: {_one_line(error)}")

    def _give_up(self, why: str) -> None:
        """What is wrong would hit every further image too."""
        with self._lock:
            self.fatal = self.fatal or why
        self._deadline = 0.0
        self._stop.set()

    def _end_at_once(self, number: int) -> NoReturn:
        self.view.stop()
        os._exit(128 + number)  # safe: files are whole or absent at every moment

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C and SIGTERM let what is under way finish; a second one ends the process on the spot."""
        if self.stopped_by is not None:
            if self.options.is_worker:  # schedulers signal every process, and so does the parent: that is one signal
                return
            self._end_at_once(number)
        self.stopped_by = number
        self._deadline = time.perf_counter() + self.options.grace_s
        self._stop.set()
        if self.options.is_worker:
            return
        # Printing through the bar's console could wait for a lock that this very thread holds.
        os.write(2, f"\nstopping: up to {self.options.grace_s:.0f} s for images under way; again: at once\n".encode())


def _timing(output: Output) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in vars(output.metrics).items()}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
