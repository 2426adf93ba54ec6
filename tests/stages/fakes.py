"""Stages without models, and pipelines of them, for what is about requests and not about tensors."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from interlace.errors import AbortedError
from interlace.request import Output, Progress
from interlace.stages.ar_config import ARSamplingParams
from interlace.stages.config import HandoffConfig, OmniStageConfig, create_ar_stage_config
from interlace.stages.flow import Flow
from interlace.stages.gate import Gate
from interlace.stages.handoff import resolve
from interlace.stages.pipeline import Link, Pipeline


class FakeStage:
    """Answers with its prompt and its own letter, after `seconds`; prompts with "bad" in them fail."""

    def __init__(self, letter: str, seconds: float = 0.0, bad: str = "bad") -> None:
        self.letter, self.seconds, self.bad = letter, seconds, bad
        self.live: dict[str, Future[Output]] = {}
        self.most = 0
        self.started: list[tuple[str, float]] = []
        self.ended: list[tuple[str, float]] = []

    def submit(
        self,
        prompt: Mapping[str, Any],
        params: Any,
        *,
        request_id: str,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> "Future[Output]":
        future: Future[Output] = Future()
        self.live[request_id] = future
        self.most = max(self.most, len(self.live))
        self.started.append((request_id, time.monotonic()))
        if on_progress is not None:
            on_progress(Progress(request_id=request_id, step=1, num_steps=1, text=self.letter))
        text = str(prompt["prompt"])
        error = RuntimeError(f"{self.letter} can't take {text}") if self.bad in text else None
        output = Output(request_id=request_id, prompt=text, text=None if error else text + self.letter, error=error)
        threading.Timer(self.seconds, self._finish, (request_id, output)).start()
        return future

    def _finish(self, request_id: str, output: Output) -> None:
        future = self.live.pop(request_id, None)
        if future is not None:
            self.ended.append((request_id, time.monotonic()))
            future.set_result(output)

    def abort(self, request_id: str) -> bool:
        known = request_id in self.live
        self._finish(request_id, Output(request_id=request_id, error=AbortedError("aborted")))
        return known

    def stats(self) -> dict[str, Any]:
        return {"most": self.most}

    def describe(self) -> dict[str, Any]:
        return {"model": self.letter}

    def close(self) -> None: ...


def pipeline_of(
    stages: Sequence[FakeStage], limit: int = 4, handoffs: Mapping[int, HandoffConfig] | None = None
) -> Pipeline:
    links = []
    for index, stage in enumerate(stages):
        handoff = (handoffs or {}).get(index, HandoffConfig(function="text_to_prompt")) if index else None
        config: OmniStageConfig = create_ar_stage_config(index, stage.letter, handoff=handoff, max_in_flight=limit)
        links.append(Link(config, stage, resolve(handoff) if handoff else None, Gate(limit)))
    return Pipeline(links)


def send(pipeline: Pipeline, name: str, text: str, **options: Any) -> "Future[Output]":
    future: Future[Output] = Future()
    count = len(pipeline.links)
    user = {"prompt": text}
    pipeline.submit(Flow(name, user, (user,) * count, (ARSamplingParams(),) * count, future, **options))
    return future
