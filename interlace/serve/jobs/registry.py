"""Requests as things: every accepted job, from its submission until its result is forgotten."""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from time import monotonic, time
from typing import Any

from interlace.errors import AbortedError
from interlace.request import Output, Progress, Request
from interlace.serve.http.errors import ApiError, api_error, client_left, pipeline_error
from interlace.serve.jobs.admission import Admission
from interlace.serve.jobs.job import Event, Part, RequestJob
from interlace.serve.jobs.models import Lane
from interlace.serve.jobs.pictures import encode_output
from interlace.serve.jobs.repository import ModelRepository
from interlace.serve.metrics import ServerMetrics
from interlace.serve.orders.order import Order
from interlace.serve.settings import ServeSettings

logger = logging.getLogger("interlace.serve")
_HOUSEKEEPING_S = 1.0
_MAX_KEPT = 2000  # jobs that are over, whatever their results' sizes


class Registry:
    """Owned by the event loop's thread. The engine's threads hand their news over to it."""

    def __init__(self, models: ModelRepository, settings: ServeSettings, metrics: ServerMetrics) -> None:
        self.models, self.settings, self.metrics = models, settings, metrics
        self.admission = Admission(settings, lambda: sum(lane.max_running for lane in models.all))
        self.jobs: list[RequestJob] = []  # in the order of their submission
        self._in_engine: Counter[str] = Counter()  # parts that an engine still holds, by the name that it knows
        self.ended: deque[float] = deque(maxlen=256)  # when the last pictures were done, on time.monotonic's clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        models.is_busy = self._is_busy

    async def run(self) -> None:
        """Forgets what has expired, until cancelled."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self._forget_old()

    def live(self, client: str | None = None) -> list[RequestJob]:
        """Jobs that are not over, oldest first; of one client, or all."""
        return [job for job in self.jobs if not job.is_over and client in (None, job.client)]

    def submit(self, order: Order, *, job_id: str, kind: str, client: str, background: bool = False) -> RequestJob:
        """Hand a checked order to its engine. Raises `ApiError` where it can't come in (409, 429, 503)."""
        if self._is_in_use(job_id, client):
            text = f"request id {job_id!r} is in use; send another in X-Request-Id, or none"
            raise ApiError(409, text, code="request_id_in_use", headers={"x-should-retry": "false"})
        self.admission.check(client, order.num_images)
        name = self._free_name(job_id)
        requests = order.requests(name)
        parts = [
            Part(one.request_id, index, one.drawing.seed or 0, order.num_steps) for index, one in enumerate(requests)
        ]
        job = RequestJob(job_id, kind, order, client, parts, background)
        self.jobs.append(job)
        self._in_engine[name] = len(parts)
        self.admission.enter(client, len(parts))
        self._loop = asyncio.get_running_loop()
        for part, request in zip(parts, requests, strict=True):
            self._start(job, part, request)
        return job

    def _is_in_use(self, job_id: str, client: str) -> bool:
        """Whether that client has a request of that id under way; those without a key are one client."""
        mine = (client,) if client.startswith("key:") else ()
        return any(job.id == job_id and (not mine or job.client in mine) for job in self.live())

    def _free_name(self, job_id: str) -> str:
        """What the engine may call it: ids are several clients', and one that was aborted may not be over yet."""
        name, count = job_id, 1
        while name in self._in_engine:
            count += 1
            name = f"{job_id}~{count}"
        return name

    def cancel(self, job: RequestJob, error: ApiError | None = None) -> None:
        """End a job at the engine's next forward; its waiters get `error`, by default that it was aborted."""
        if job.is_over:
            return
        self._fail(job, error or api_error(AbortedError(f"request {job.id} was aborted")))

    def forget(self, job: RequestJob) -> None:
        """Drop a job and its result."""
        self.cancel(job)
        if job in self.jobs:
            self.jobs.remove(job)

    def release(self, job: RequestJob) -> None:
        """The answer has its results: keep them no longer, unless they were asked for by id or URL."""
        if not job.background:
            for part in job.parts:
                part.file = None
                part.stills.clear()

    @contextlib.contextmanager
    def followed(self, job: RequestJob) -> Iterator["asyncio.Queue[Event]"]:
        """The events of a job whose client waits for all of it: left before its end, the job is cancelled."""
        events = job.watch()
        try:
            yield events
        finally:
            job.watchers.remove(events)
            if not job.is_over:
                self.metrics.disconnects.inc()
            self.cancel(job, client_left())
            self.release(job)

    def positions(self) -> dict[RequestJob, int]:
        """Of each job that waits: its position in its engine's queue, from 1."""
        waiting = [job for job in self.live() if all(part.state == "queued" for part in job.parts)]
        waiting.sort(key=lambda job: -job.order.priority)
        counts: dict[int, int] = {}
        positions = {}
        for job in waiting:
            lane = id(job.order.lane)
            positions[job] = counts[lane] = counts.get(lane, 0) + 1
        return positions

    @property
    def images_per_s(self) -> float:
        """Over the last ten seconds."""
        now = monotonic()
        return sum(now - ended < 10 for ended in self.ended) / 10

    def _start(self, job: RequestJob, part: Part, request: Request) -> None:
        loop = self._loop
        assert loop is not None

        def tell(progress: Progress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(self._progressed, job, part, progress)

        def done(future: "Future[Output]") -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._part_done, job, part, future.result())

        job.order.lane.omni.submit(request, listener=tell).add_done_callback(done)

    def _progressed(self, job: RequestJob, part: Part, progress: Progress) -> None:
        if job.is_over or part.state == "completed" or progress.kind == "ended":
            return
        self._started(job, part)
        part.rows = progress.rows or part.rows
        part.replica = part.replica if progress.replica is None else progress.replica
        if progress.text is not None:  # its steps are tokens
            job.tell(Event("text", part, text=progress.text))
        if progress.kind == "started" or progress.stage != job.order.lane.stage:
            return
        part.num_steps = progress.num_steps or part.num_steps
        if progress.preview is None:
            part.step = max(part.step, progress.step)
            job.tell(Event("step", part, step=progress.step))
        elif part.num_previews < job.order.num_previews:
            part.num_previews += 1
            part.preview = progress.preview
            index = part.num_previews - 1
            job.tell(Event("preview", part, progress.preview, progress.step, index=index))

    def _started(self, job: RequestJob, part: Part) -> None:
        if part.state != "queued":
            return
        part.state = "in_progress"
        if job.state == "queued":
            job.state = "in_progress"
            job.tell(Event("started", part))

    def _part_done(self, job: RequestJob, part: Part, output: Output) -> None:
        self._has_left(part.id.rpartition(".")[0])
        metrics = part.metrics = output.metrics
        part.text = output.text
        ran = output.error is None
        self.admission.leave(job.client, metrics.total_s - metrics.queue_s if ran else None)
        self.metrics.observe(metrics, output.error)
        if job.is_over:
            return
        if output.error is not None:
            self._fail(job, pipeline_error(output.error), output.error)
            return
        self.ended.append(monotonic())
        self._spawn(self._encode(job, part, output))

    def _is_busy(self, lane: Lane) -> bool:
        return any(job.order.lane is lane for job in self.live())

    def _has_left(self, name: str) -> None:
        self._in_engine[name] -= 1
        if self._in_engine[name] <= 0:
            del self._in_engine[name]

    async def _encode(self, job: RequestJob, part: Part, output: Output) -> None:
        try:
            part.file, part.size = await asyncio.to_thread(encode_output, job, part, output)
        except Exception as error:
            self._fail(job, api_error(error), error)
            return
        if job.is_over:
            part.file = None
            return
        part.state, part.step, part.preview = "completed", part.num_steps, None
        job.tell(Event("image", part))
        if all(part.state == "completed" for part in job.parts):
            self._end(job, "completed", Event("done"))

    def _fail(self, job: RequestJob, error: ApiError, cause: BaseException | None = None) -> None:
        if job.is_over:
            return
        if error.status == 500:
            logger.error("request %s failed", job.id, exc_info=cause)
        job.error = error
        for part in job.parts:
            if part.state != "completed":
                job.order.lane.omni.abort(part.id)
                part.state = "failed"
            part.file = None
            part.stills.clear()
        self._end(job, "failed", Event("error"))

    def _end(self, job: RequestJob, state: str, event: Event) -> None:
        job.state = "completed" if state == "completed" else "failed"
        job.completed = time()
        job.expires = job.completed + self.settings.result_ttl
        job.order = job.order.light()
        self.metrics.requests.labels(job.kind, job.error.code if job.error else "ok").inc()
        job.tell(event)
        job.ended.set()
        self.models.changed()

    def _forget_old(self) -> None:
        now = time()
        over = [job for job in self.jobs if job.is_over]
        old: set[RequestJob] = set()
        room = self.settings.max_results_bytes
        for kept, job in enumerate(sorted(over, key=lambda job: job.completed or 0, reverse=True)):
            room -= job.num_bytes
            if (job.expires or 0) < now or room < 0 or kept >= _MAX_KEPT:
                old.add(job)
        if old:
            self.jobs = [job for job in self.jobs if job not in old]

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def find(self, job_id: str, client: str | None) -> RequestJob:
        """A client's job; of several by one id, one after the other, the last. Raises `ApiError` 404."""
        named = (job for job in reversed(self.jobs) if job.id == job_id and client in (None, job.client))
        job = next(named, None)
        if job is None:
            text = f"no request {job_id[:80]!r}; it never was, was deleted, or its result has expired"
            raise ApiError(404, text, code="request_not_found", param="id")
        return job

    def part_named(self, name: str) -> Part | None:
        """The part whose file has that name in its URL."""
        return next((part for job in self.jobs for part in job.parts if part.name == name), None)
