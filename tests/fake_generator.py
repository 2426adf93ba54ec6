"""A generator without a model: flat pictures whose colour is the seed, made by threads, with faults on demand."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from PIL import Image

from interlace.bulk.input.rows import Job
from interlace.errors import AbortedError, RequestError
from interlace.request import Metrics, Output


class FakeGenerator:
    """`faults`: the errors of requests, by image name, a list being those of the first attempts; `wait` holds every
    request until it is set."""

    def __init__(
        self, faults: Mapping[str, Exception | list[Exception]] | None = None, wait: threading.Event | None = None
    ) -> None:
        self.faults, self.wait = dict(faults or {}), wait
        self.submitted: list[str] = []
        self.most_at_once = self.num_open = 0
        self.closed = False
        self._aborted: set[str] = set()
        self._lock = threading.Lock()

    def submit(self, job: Job) -> "Future[Output]":
        future: Future[Output] = Future()
        with self._lock:
            self.submitted.append(job.name)
            self.num_open += 1
            self.most_at_once = max(self.most_at_once, self.num_open)
        threading.Thread(target=self._run, args=(job, future), daemon=True).start()
        return future

    def _run(self, job: Job, future: "Future[Output]") -> None:
        while self.wait is not None and not self.wait.is_set() and job.name not in self._aborted:
            time.sleep(0.002)
        error = AbortedError("aborted") if job.name in self._aborted else self._fault(job.name)
        images = [] if error else [picture(job)]
        with self._lock:
            self.num_open -= 1
        future.set_result(Output(request_id=job.name, images=images, error=error, metrics=Metrics(num_steps=4)))

    def _fault(self, name: str) -> Exception | None:
        fault = self.faults.get(name)
        if isinstance(fault, list):
            return fault.pop(0) if fault else None
        return fault

    def resolved(self, job: Job) -> dict[str, Any]:
        return {"num_inference_steps": 4, "guidance_scale": 3.5}

    def abort(self, job: Job) -> None:
        self._aborted.add(job.name)

    def gathering(self) -> AbstractContextManager[None]:
        return nullcontext()

    def mean_rows(self) -> float | None:
        return 2.0

    def facts(self) -> dict[str, Any]:
        return {"device": "fake"}

    def close(self) -> None:
        self.closed = True


def picture(job: Job) -> Image.Image:
    seed = job.sampling.seed or 0
    return Image.new("RGB", (16, 8), (seed % 256, seed // 256 % 256, seed // 65536 % 256))


BROKEN = RequestError("the engine choked on it")
