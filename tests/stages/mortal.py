"""A stage for replicas' processes, without a model: takes its time, tells its steps, and dies when it is told to."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from PIL import Image

from interlace.errors import AbortedError, InvalidRequestError
from interlace.request import Output, Progress, Request, SamplingParams


class MortalStage:
    """`{"prompt": "s=0.2"}` takes so many seconds; "die" kills the process, "bad" fails, "odd" is no output at all."""

    def __init__(self, fails: str = "") -> None:
        if fails:
            raise InvalidRequestError(fails, "model")
        self._aborted: dict[str, threading.Event] = {}
        self.done, self._lock = 0, threading.Lock()

    def submit(
        self,
        request: Request,
        listener: Callable[[Progress], None] | None = None,
    ) -> "Future[Output]":
        future: Future[Output] = Future()
        self._aborted[request.request_id] = threading.Event()
        threading.Thread(target=self._run, args=(request, listener, future), daemon=True).start()
        return future

    def _run(self, request: Request, tell: Callable[[Progress], None] | None, future: "Future[Output]") -> None:
        text, request_id = str(request.prompt), request.request_id
        seconds = float(text.split("s=")[1].split()[0]) if "s=" in text else 0.0
        for step in range(4):
            if self._aborted[request_id].wait(seconds / 4):
                future.set_result(Output(request_id=request_id, error=AbortedError("it was aborted")))
                return
            if tell is not None:
                tell(Progress(request_id=request_id, step=step + 1, num_steps=4))
            if "die" in text and step == 1:
                os._exit(7)
        with self._lock:
            self.done += 1
        future.set_result(self.output(text, request.drawing, request_id))

    def output(self, text: str, params: SamplingParams, request_id: str) -> Output:
        if "bad" in text:
            return Output(request_id=request_id, prompt=text, error=OddError("bad", 1))
        if "odd" in text:
            return Output(request_id=request_id, images=[lambda: None])
        noise = np.random.default_rng(params.seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        seeds = [params.seed] if params.seed is not None else []
        return Output(request_id=request_id, prompt=text, images=[Image.fromarray(noise)], seeds=seeds)

    def abort(self, request_id: str) -> bool:
        known = self._aborted.get(request_id)  # else it is on its way here, and the abort comes once more after it
        if known is not None:
            known.set()
        return known is not None

    def stats(self) -> dict[str, Any]:
        return {"done": self.done, "pid": os.getpid()}

    def describe(self) -> dict[str, Any]:
        return {"model": "mortal", "threads": os.environ.get("OMP_NUM_THREADS")}

    def close(self) -> None:
        pass


class OddError(Exception):
    """One that pickle can write and not read."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} {code}")
