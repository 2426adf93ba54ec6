"""Requests as things: every accepted job, from its submission until its result is forgotten."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from time import monotonic, time
from typing import Any

from interlace.errors import AbortedError
from interlace.request import Output, Progress
from interlace.serve.admission import Admission
from interlace.serve.errors import ApiError, api_error
from interlace.serve.job import Event, Job, Part
from interlace.serve.lanes import Lanes
from interlace.serve.metrics import ServerMetrics
from interlace.serve.order import Order
from interlace.serve.pictures import encode_output
from interlace.serve.settings import ServeSettings
from interlace.serve.stages import as_request

logger = logging.getLogger("interlace.serve")
_POLL_S, _IDLE_POLL_S = 0.05, 1.0
_MAX_KEPT = 2000  # jobs that are over, whatever their results' sizes


class Registry:
    """Owned by the event loop's thread. The engine's threads hand their news over to it."""

    def __init__(self, lanes: Lanes, settings: ServeSettings, metrics: ServerMetrics) -> None:
        self.lanes, self.settings, self.metrics = lanes, settings, metrics
        self.admission = Admission(settings, sum(lane.max_running for lane in lanes.all))
        self.jobs: dict[str, Job] = {}
        self.ended: deque[float] = deque(maxlen=256)  # when the last pictures were done, on time.monotonic's clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stirred = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Notices what has started and what has expired, until cancelled."""
        while True:
            queued = any(part.state == "queued" for job in self.live() for part in job.parts)
            try:
                async with asyncio.timeout(_POLL_S if queued else _IDLE_POLL_S):
                    await self._stirred.wait()
                await asyncio.sleep(_POLL_S if queued else 0)
            except TimeoutError:
                pass
            self._stirred.clear()
            self.refresh()
            self._forget_old()

    def live(self, client: str | None = None) -> list[Job]:
        """Jobs that are not over, oldest first; of one client, or all."""
        return [job for job in self.jobs.values() if not job.is_over and client in (None, job.client)]

    def submit(self, order: Order, *, job_id: str, kind: str, client: str, background: bool = False) -> Job:
        """Hand a checked order to its engine. Raises `ApiError` where it can't come in (409, 429, 503)."""
        if job_id in self.jobs:
            text = f"request id {job_id!r} is in use; send another in X-Request-Id, or none"
            raise ApiError(409, text, code="request_id_in_use", headers={"x-should-retry": "false"})
        self.admission.check(client, len(order.seeds))
        parts = [Part(f"{job_id}.{i}", i, seed, order.num_steps) for i, seed in enumerate(order.seeds)]
        job = self.jobs[job_id] = Job(job_id, kind, order, client, parts, background)
        self.admission.enter(client, len(parts))
        self._loop = asyncio.get_running_loop()
        for part in parts:
            self._start(job, part)
        self._stirred.set()
        return job

    def cancel(self, job: Job, error: ApiError | None = None) -> None:
        """End a job at the engine's next forward; its waiters get `error`, by default that it was aborted."""
        if job.is_over:
            return
        self._fail(job, error or api_error(AbortedError(f"request {job.id} was aborted")))

    def forget(self, job: Job) -> None:
        """Drop a job and its result."""
        self.cancel(job)
        self.jobs.pop(job.id, None)

    def release(self, job: Job) -> None:
        """The answer has its results: keep them no longer, unless they were asked for by id or URL."""
        if not job.background:
            for part in job.parts:
                part.file = None

    @contextlib.contextmanager
    def followed(self, job: Job) -> Iterator["asyncio.Queue[Event]"]:
        """The events of a job whose client waits for all of it: left before its end, the job is cancelled."""
        events = job.watch()
        try:
            yield events
        finally:
            job.watchers.remove(events)
            if not job.is_over:
                self.metrics.disconnects.inc()
            self.cancel(job)
            self.release(job)

    async def next_event(self, events: "asyncio.Queue[Event]") -> Event | None:
        """The next event, or None when nothing came for so long that a sign of life is due."""
        try:
            async with asyncio.timeout(self.settings.keep_alive_s):
                return await events.get()
        except TimeoutError:
            return None

    def positions(self) -> dict[str, int]:
        """Of each job that waits: its place in its engine's queue, from 1."""
        waiting = [job for job in self.live() if all(part.state == "queued" for part in job.parts)]
        waiting.sort(key=lambda job: -job.order.sampling.priority)
        counts: dict[int, int] = {}
        places = {}
        for job in waiting:
            lane = id(job.order.lane)
            places[job.id] = counts[lane] = counts.get(lane, 0) + 1
        return places

    def refresh(self) -> None:
        """Bring steps, rows and what has started up to date with the engines."""
        states = {state["request_id"]: state for lane in self.lanes.all for state in lane.omni.engine.live()}
        for job in self.live():
            for part in job.parts:
                state = states.get(part.id)
                if state is not None and state["state"] == "running":
                    part.rows, part.step = state["rows"], max(part.step, state["step"])
                    part.num_steps = state["num_steps"] or part.num_steps
                    self._started(job, part)

    @property
    def images_per_s(self) -> float:
        """Over the last ten seconds."""
        now = monotonic()
        return sum(now - ended < 10 for ended in self.ended) / 10

    def _start(self, job: Job, part: Part) -> None:
        loop, order = self._loop, job.order
        assert loop is not None

        def tell(progress: Progress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(self._progressed, job, part, progress)

        def done(future: "Future[Output]") -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._part_done, job, part, future.result())

        item, sampling = as_request(order, part.index)
        future = order.lane.omni.submit(
            item,
            sampling,
            request_id=part.id,
            on_progress=tell,
            preview_every=order.preview_every,
        )
        future.add_done_callback(done)

    def _progressed(self, job: Job, part: Part, progress: Progress) -> None:
        if job.is_over or part.state == "completed":
            return
        self._started(job, part)
        if progress.text is not None:  # its steps are tokens
            job.tell(Event("text", part, text=progress.text))
        if progress.stage != job.order.lane.stage:
            return
        part.num_steps = progress.num_steps or part.num_steps
        if progress.preview is None:
            part.step = max(part.step, progress.step)
            job.tell(Event("step", part, step=progress.step))
        elif part.num_previews < job.order.num_previews:
            part.num_previews += 1
            job.order.lane.previews = True
            part.preview = progress.preview
            job.tell(Event("preview", part, progress.preview, progress.step))

    def _started(self, job: Job, part: Part) -> None:
        if part.state != "queued":
            return
        part.state = "in_progress"
        if job.state == "queued":
            job.state = "in_progress"
            job.tell(Event("started", part))

    def _part_done(self, job: Job, part: Part, output: Output) -> None:
        metrics = part.metrics = output.metrics
        part.text = output.text
        ran = output.error is None
        self.admission.leave(job.client, metrics.total_s - metrics.queue_s if ran else None)
        self.metrics.observe(metrics, output.error)
        if job.is_over:
            return
        if output.error is not None:
            self._fail(job, api_error(output.error), output.error)
            return
        self.ended.append(monotonic())
        self._spawn(self._encode(job, part, output))

    async def _encode(self, job: Job, part: Part, output: Output) -> None:
        try:
            part.file, part.size = await asyncio.to_thread(encode_output, job, part, output)
        except Exception as error:
            self._fail(job, api_error(error), error)
            return
        await self._previews_first(job, part)
        if job.is_over:
            part.file = None
            return
        part.state, part.step, part.preview = "completed", part.num_steps, None
        job.tell(Event("image", part))
        if all(part.state == "completed" for part in job.parts):
            self._end(job, "completed", Event("done"))

    async def _previews_first(self, job: Job, part: Part) -> None:
        """Previews are made by other workers: the picture itself is not to overtake them."""
        expected, until = job.order.expected_previews(part.metrics.num_steps if part.metrics else 0), monotonic() + 1
        while part.num_previews < expected and monotonic() < until:
            await asyncio.sleep(0.005)

    def _fail(self, job: Job, error: ApiError, cause: BaseException | None = None) -> None:
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
        self._end(job, "failed", Event("error"))

    def _end(self, job: Job, state: str, event: Event) -> None:
        job.state = "completed" if state == "completed" else "failed"
        job.completed = time()
        job.expires = job.completed + self.settings.result_ttl
        job.order = job.order.light()
        self.metrics.requests.labels(job.kind, job.error.code if job.error else "ok").inc()
        job.tell(event)
        job.ended.set()
        self._stirred.set()

    def _forget_old(self) -> None:
        now = time()
        over = [job for job in self.jobs.values() if job.is_over]
        room = self.settings.max_results_bytes
        for kept, job in enumerate(sorted(over, key=lambda job: job.completed or 0, reverse=True)):
            room -= job.num_bytes
            if (job.expires or 0) < now or room < 0 or kept >= _MAX_KEPT:
                self.jobs.pop(job.id, None)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def find(self, job_id: str, client: str | None) -> Job:
        """A client's job. Raises `ApiError` 404."""
        job = self.jobs.get(job_id)
        if job is None or client not in (None, job.client):
            text = f"no request {job_id[:80]!r}; it never was, was deleted, or its result has expired"
            raise ApiError(404, text, code="request_not_found", param="id")
        return job

    def part_named(self, name: str) -> Part | None:
        """The part whose file has that name in its URL."""
        return next((part for job in self.jobs.values() for part in job.parts if part.name == name), None)
