"""Makes images by asking services: threads that send, retries, limits and a cap. Knows no SDK and no file.

A request that waits (for its turn, a rate limit, a pause after a failure) holds no thread.
"""

import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from PIL import Image

from interlace.bulk.backends.endpoints import Endpoint
from interlace.bulk.backends.errors import NoEndpointError, RequestCapError, ServiceError
from interlace.bulk.backends.limits import Clock, EndpointGate, Gates, backoff_s
from interlace.bulk.backends.service import ImageService
from interlace.bulk.backends.waiting import Task, WaitingTasks
from interlace.bulk.input.rows import Job
from interlace.errors import AbortedError, DeadlineExceededError, EngineClosedError, InvalidRequestError
from interlace.request import Metrics, Output

_LATE = "not made within {} s"
_CLOSE_S = 2.0
_MIN_WAIT_S = 0.005
_LONG_PAUSE_S = 90.0

_log = logging.getLogger(__name__)


class ApiGenerator:
    """A service, or several alike, as a bulk run's generator.

    `num_workers` requests run at once. One that may pass is tried `max_retries` times more; after `max_requests`
    requests, those of further attempts included, every job that is left ends in a `RequestCapError`.
    """

    def __init__(
        self,
        service: ImageService,
        endpoints: Sequence[Endpoint],
        *,
        num_workers: int,
        max_retries: int,
        max_requests: int | None = None,
        request_timeout_s: float = 300.0,
        facts: Mapping[str, object] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._service, self._clock = service, clock
        self._max_retries, self._request_timeout_s = max_retries, request_timeout_s
        self._max_requests = math.inf if max_requests is None else max_requests
        self._facts = dict(facts or {})
        now = clock()
        self._gates = Gates(
            [EndpointGate(endpoint, service.connect(endpoint), num_workers, now) for endpoint in endpoints]
        )
        self._changed = threading.Condition()
        self._waiting = WaitingTasks()
        self._tasks: dict[str, Task] = {}  # all that have not ended, by image name
        self._order = itertools.count()
        self._num_requests = self._num_in_flight = self._num_retries = self._most_in_flight = 0
        self._closed = False
        names = [f"interlace-api-{number}" for number in range(num_workers)]
        # Daemons: a request that hangs must not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> "Future[Output]":
        future: Future[Output] = Future()
        try:
            arguments = self._service.arguments(job)
        except InvalidRequestError as error:
            future.set_result(Output(request_id=job.name, prompt=job.prompt, error=error))
            return future
        rank = (-job.sampling.priority, next(self._order))
        task = Task(rank, job, arguments, future, submitted_at=self._clock())
        with self._changed:
            closed = self._closed
            if not closed:
                self._tasks[job.name] = task
                self._waiting.add(task)
                self._changed.notify()
        if closed:
            self._resolve(task, error=EngineClosedError("the run is over"))
        return future

    def resolved(self, job: Job) -> Mapping[str, object]:
        return {"seed": None, "negative_prompt": None, **self._facts, **self._service.arguments(job)}

    def abort(self, job: Job) -> None:
        with self._changed:
            task = self._tasks.pop(job.name, None)
            if task is not None:
                self._waiting.remove(task)
        if task is not None:
            self._resolve(task, error=AbortedError(f"{job.name} was aborted"))

    def gathering(self) -> AbstractContextManager[None]:
        return nullcontext()

    def mean_rows(self) -> float | None:
        return None

    def facts(self) -> Mapping[str, object]:
        with self._changed:
            counts = {
                "requests": self._num_requests,
                "retries": self._num_retries,
                "most_at_once": self._most_in_flight,
                "endpoints": [_told(gate) for gate in self._gates.all],
            }
        return {**self._facts, **counts}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            left, self._tasks = list(self._tasks.values()), {}
            self._waiting.take_all()
            self._changed.notify_all()
        for task in left:
            self._resolve(task, error=EngineClosedError("the run is over"))
        until = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            for gate in self._gates.all:
                gate.connection.close()

    def _work(self) -> None:
        while (turn := self._next_turn()) is not None:
            task, gate = turn
            try:
                self._attempt(task, gate)
            finally:
                del task, gate, turn  # pictures should not stay while a thread waits

    def _next_turn(self) -> tuple[Task, EndpointGate] | None:
        """Waits until a task may be sent to an endpoint; None at the end."""
        while True:
            turn: tuple[Task, EndpointGate] | None = None
            ended: list[tuple[Task, Exception]] = []
            with self._changed:
                if self._closed:
                    return None
                now = self._clock()
                self._waiting.wake(now)
                why = self._why_over()
                if why is not None:
                    ended = [(task, why) for task in self._waiting.take_all() if self._claim(task)]
                elif self._may_send:
                    late = [task for task in self._waiting.take_late(now) if self._claim(task)]
                    ended = [(task, DeadlineExceededError(_LATE.format(task.job.sampling.timeout_s))) for task in late]
                    turn = self._waiting.take(partial(self._gate_for, now))
                    if turn is not None:
                        self._send(*turn)
                if turn is None and not ended:
                    self._changed.wait(self._wait_s(now))
            for task, error in ended:
                self._resolve(task, error=error)
            if turn is not None:
                return turn

    def _why_over(self) -> Exception | None:
        """Why nothing more can be sent. Answers that are under way come first: a run that hears of this stops."""
        if self._num_in_flight:
            return None
        if not self._gates.usable:
            told = "; ".join(f"{gate.endpoint.shown}: {gate.out}" for gate in self._gates.all)
            return NoEndpointError(f"no endpoint can be used: {told}")
        if self._num_requests >= self._max_requests:
            return RequestCapError(
                f"stopped at --max-requests: {self._num_requests} requests are sent; the same command goes on from here"
            )
        return None

    def _claim(self, task: Task) -> bool:
        """Whoever gets True has to resolve it."""
        if self._tasks.get(task.job.name) is not task:
            return False
        del self._tasks[task.job.name]
        return True

    @property
    def _may_send(self) -> bool:
        return self._num_requests < self._max_requests

    def _gate_for(self, now: float, task: Task) -> EndpointGate | None:
        return self._gates.pick(now, task.failed_at)

    def _send(self, task: Task, gate: EndpointGate) -> None:
        gate.send()
        self._num_requests += 1
        self._num_in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._num_in_flight)
        self._num_retries += task.num_sent > 0
        task.num_sent += 1
        if self._waiting.has_ready:
            self._changed.notify()

    def _wait_s(self, now: float) -> float | None:
        """How long nothing can happen without a notice."""
        wait = self._waiting.next_wake_at() - now
        if self._waiting.has_ready and self._may_send:
            wait = min(wait, self._gates.opens_in(now), self._waiting.next_deadline() - now)
        return None if wait == math.inf else max(_MIN_WAIT_S, wait)

    def _attempt(self, task: Task, gate: EndpointGate) -> None:
        """Sends one request and does what follows from its answer."""
        started = self._clock()
        if task.started_at is None:
            task.started_at = started
        image: Image.Image | None = None
        error: Exception | None = None
        try:
            if task.job.pictures != task.job.images:
                raise InvalidRequestError("masks, controls and media are not for services; leave their columns out")
            pictures = [source.load() for source in task.job.images]
        except Exception as caught:
            error = caught if isinstance(caught, InvalidRequestError) else InvalidRequestError(str(caught))
        was_sent = error is None
        if was_sent:
            timeout_s = max(0.001, min(self._request_timeout_s, task.deadline - started))
            try:
                image = gate.connection.ask(task.job.prompt, task.arguments, pictures, timeout_s)
            except Exception as caught:
                error = caught
        with self._changed:
            self._num_requests -= not was_sent
            gate.ended(self._clock() - started, was_sent=was_sent)
            ends = self._judge(task, gate, error) if was_sent else True
            if ends:
                ends = self._claim(task)
        if ends:
            self._resolve(task, image, error)
        with self._changed:  # only now: a run that hears of the cap stops, and what was paid for must be told before
            self._num_in_flight -= 1
            self._changed.notify_all()

    def _judge(self, task: Task, gate: EndpointGate, error: Exception | None) -> bool:
        """What an answer means for the endpoint and the task; False where the task is to be tried again."""
        if error is None:
            gate.answered()
            return True
        if not isinstance(error, ServiceError) or error.fate == "row":
            gate.refused()
            return True
        now = self._clock()
        gate.failed(error, now, random.random())
        if (pause := gate.paused_until - now) > _LONG_PAUSE_S:
            _log.warning("%s: a pause of %.0f s: %s", gate.endpoint.shown, pause, error)
        if self._tasks.get(task.job.name) is not task:
            return True  # aborted meanwhile
        if error.fate == "again":
            # "Too many requests" of an endpoint that goes on making images means the queue and not this request.
            is_queue = error.status == 429 and task.failed_at is gate and gate.num_images > task.images_then
            task.num_failures += not is_queue
        task.failed_at, task.images_then = gate, gate.num_images
        if task.num_failures > self._max_retries:
            return True
        pauses = error.fate == "endpoint" or error.retry_after_s is not None  # the endpoint waits, not the task
        rest = 0.0 if pauses else backoff_s(max(1, task.num_failures), random.random())
        self._waiting.rest(task, now + rest)
        return False

    def _resolve(self, task: Task, image: Image.Image | None = None, error: Exception | None = None) -> None:
        """Called without the lock: whoever waits for the future goes on in this thread."""
        now = self._clock()
        started = now if task.started_at is None else task.started_at
        metrics = Metrics(queue_s=started - task.submitted_at, total_s=now - task.submitted_at)
        if isinstance(error, ServiceError) and task.num_sent > 1:
            error = ServiceError(f"{error} (attempt {task.num_sent})", error.fate, status=error.status)
        output = Output(request_id=task.job.name, prompt=task.job.prompt, error=error, metrics=metrics)
        if image is not None and error is None:
            output.images = [image]
            seed = task.arguments.get("seed")
            output.seeds = [] if seed is None else [seed]
        task.future.set_result(output)


def _told(gate: EndpointGate) -> dict[str, Any]:
    answers = gate.num_images + gate.num_errors
    told: dict[str, Any] = {
        "base_url": gate.endpoint.shown,
        "requests": gate.num_requests,
        "images": gate.num_images,
        "rate_limited": gate.num_limited,
        "errors": gate.num_errors,
        "most_at_once": gate.most_in_flight,
        "mean_s": round(gate.seconds / answers, 3) if answers else None,
    }
    return told if gate.out is None else {**told, "out": gate.out}
