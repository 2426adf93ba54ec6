"""Stages without models, and pipelines of them, for what is about requests and not about tensors."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from interlace.errors import AbortedError
from interlace.request import Output, Progress, Request, SamplingParams
from interlace.stages.config import HandoffConfig, OmniStageConfig, create_ar_stage_config
from interlace.stages.flow.link import Link
from interlace.stages.flow.slots import Slots
from interlace.stages.handoff import resolve
from interlace.stages.pipeline import Pipeline
from interlace.stages.stage import Listener


class FakeStage:
    """Answers with its prompt and its own letter, after `seconds` (None: when told to); prompts with "bad" in them
    fail."""

    def __init__(self, letter: str, seconds: float | None = 0.0, bad: str = "bad") -> None:
        self.letter, self.seconds, self.bad = letter, seconds, bad
        self.live: dict[str, Future[Output]] = {}
        self.held: list[Output] = []
        self.most = 0
        self.started: list[str] = []

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Output]":
        future: Future[Output] = Future()
        request_id = request.request_id
        self.live[request_id] = future
        self.most = max(self.most, len(self.live))
        self.started.append(request_id)
        if listener is not None:
            listener(Progress(request_id=request_id, step=1, num_steps=1, text=self.letter))
        text = str(request.prompt)
        error = RuntimeError(f"{self.letter} can't take {text}") if self.bad in text else None
        output = Output(request_id=request_id, prompt=text, text=None if error else text + self.letter, error=error)
        if self.seconds is None:
            self.held.append(output)
        else:
            timer = threading.Timer(self.seconds, self._finish, (request_id, output))
            timer.daemon = True
            timer.start()
        return future

    def go_on(self) -> None:
        """What was held is answered, and from now on everything at once."""
        self.seconds = 0.0
        while self.held:
            self.answer_first()

    def answer_first(self) -> None:
        """The oldest that is held is answered."""
        output = self.held.pop(0)
        self._finish(output.request_id, output)

    def _finish(self, request_id: str, output: Output) -> None:
        future = self.live.pop(request_id, None)
        if future is not None:
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
        links.append(Link(config, stage, resolve(handoff) if handoff else None, Slots(limit)))
    return Pipeline(links)


def send(
    pipeline: Pipeline,
    name: str,
    text: str,
    tell: Listener | None = None,
    timeout_s: float | None = None,
    return_stages: bool = False,
) -> "Future[Output]":
    request = Request(request_id=name, prompt=text, sampling=SamplingParams(timeout_s=timeout_s))
    return pipeline.submit(request, tell, return_stages=return_stages)
