"""Requests flow from stage to stage, each as soon as it is done there; nobody waits for the others.

Every stage batches by itself. Nothing here blocks: what a request does next runs in a small pool of threads.
"""

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any

from interlace.errors import AbortedError, DeadlineExceededError, EngineClosedError, InvalidRequestError
from interlace.request import Output, Progress, SamplingParams
from interlace.stages.config import OmniStageConfig
from interlace.stages.deadlines import Deadlines
from interlace.stages.flow import Flow
from interlace.stages.gate import Gate
from interlace.stages.handoff import HandoffFunction, Handover
from interlace.stages.stage import Stage

logger = logging.getLogger("interlace.stages")


@dataclass
class Link:
    """One stage in a pipeline: how requests get there, and what has become of them."""

    config: OmniStageConfig
    stage: Stage
    handoff: HandoffFunction | None
    gate: Gate
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # that requests spent here, summed


class Pipeline:
    """Takes requests, gives futures. `links` are the stages in order."""

    def __init__(self, links: Sequence[Link], num_workers: int = 4) -> None:
        self.links = tuple(links)
        self._flows: dict[str, Flow] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="interlace-handoff")
        self._deadlines = Deadlines()

    def submit(self, flow: Flow) -> None:
        """Raises `EngineClosedError`, or `InvalidRequestError` when the request's id is in use."""
        with self._lock:
            if self._closed:
                raise EngineClosedError("the stages are closed; open new ones")
            if flow.request_id in self._flows:
                raise InvalidRequestError(
                    f"request_id {flow.request_id!r} is already in use; choose another", "request_id"
                )
            self._flows[flow.request_id] = flow
        if flow.timeout_s is not None:
            self._deadlines.add(flow.timeout_s, partial(self._too_late, weakref.ref(flow)))
        self._enter(flow, 0)

    def abort(self, request_id: str) -> bool:
        """End a request wherever it is. False when there is no such request."""
        flow = self._flows.get(request_id)
        return flow is not None and self._stop(flow, AbortedError("the request was aborted"))

    def stats(self) -> list[dict[str, Any]]:
        """A stage each: requests so far and now, seconds that they spent there, and its own engine's statistics."""
        return [
            {
                "stage_id": link.config.stage_id,
                "stage_type": link.config.stage_type,
                "model": link.config.model,
                "finished": link.counts["finished"],
                "failed": link.counts["failed"],
                "live": len(link.gate.inside),
                "waiting": link.gate.num_waiting,
                "limit": link.gate.limit,
                "seconds": link.seconds,
                "engine": link.stage.stats(),
            }
            for link in self.links
        ]

    def close(self) -> None:
        """Pending requests end with an error; then the stages are closed. May be called twice."""
        with self._lock:
            self._closed = True
        closed = EngineClosedError("the stages were closed before this request was done")
        for flow in list(self._flows.values()):
            self._stop(flow, closed)
        for link in self.links:
            link.stage.close()
        self._deadlines.close()
        self._workers.shutdown()
        for flow in list(self._flows.values()):
            self._finish(flow, closed)

    def _enter(self, flow: Flow, index: int) -> None:
        with flow.lock:
            flow.index = index
        self.links[index].gate.enter(flow, lambda: self._spawn(flow, index))
        if flow.error is not None and self.links[index].gate.give_up(flow):  # aborted while it got in line
            self._finish(flow)

    def _spawn(self, flow: Flow, index: int) -> None:
        try:
            self._workers.submit(self._guarded_run, flow, index)
        except RuntimeError:  # closed in the meantime
            self._finish(flow, EngineClosedError("the stages were closed before this request was done"))

    def _guarded_run(self, flow: Flow, index: int) -> None:
        try:
            self._run(flow, index)
        except Exception as error:
            self.links[index].counts["failed"] += 1
            self._finish(flow, error)

    def _run(self, flow: Flow, index: int) -> None:
        """It was let in: make its prompt, hand it to the stage, and give back its place at the one before."""
        link = self.links[index]
        prompt = self._prompt(flow, index)
        if index:
            self.links[index - 1].gate.leave(flow)
        if flow.error is not None:
            self._finish(flow)
            return
        params = flow.params[index]
        if isinstance(params, SamplingParams) and flow.timeout_s is not None:
            left = max(flow.timeout_s - (monotonic() - flow.submitted), 0.0)
            params = replace(params, timeout_s=left)
        options: dict[str, Any] = {"on_progress": self._listener(flow, index)}
        if link.config.stage_type == "diffusion" and flow.preview_every:
            options["preview_every"] = flow.preview_every
        start = monotonic()
        future = link.stage.submit(prompt, params, request_id=flow.request_id, **options)
        future.add_done_callback(lambda done: self._done(flow, index, done.result(), start))
        if flow.error is not None:  # aborted while it was handed over
            link.stage.abort(flow.request_id)

    def _prompt(self, flow: Flow, index: int) -> dict[str, Any]:
        link, own = self.links[index], flow.prompts[index]
        if index == 0 or link.handoff is None:
            return dict(own)
        before = flow.outputs[-1]
        if before.error is not None:
            return {**own, "prompt": flow.user_prompt.get("prompt")}
        handover = Handover(output=before, prompt=own, user_prompt=flow.user_prompt, outputs=tuple(flow.outputs))
        prompt = link.handoff(handover)
        if not isinstance(prompt, (dict, str)):
            got = type(prompt).__name__
            raise InvalidRequestError(f"the handoff to stage {index} returned a {got}; expected a prompt", "handoff")
        return {"prompt": prompt} if isinstance(prompt, str) else dict(prompt)

    def _done(self, flow: Flow, index: int, output: Output, start: float) -> None:
        """A stage is done with it, in that stage's thread."""
        link = self.links[index]
        link.seconds += monotonic() - start
        link.counts["finished" if output.error is None else "failed"] += 1
        with flow.lock:
            if flow.over:
                return
            flow.outputs.append(output)
        last = index == len(self.links) - 1
        if flow.error is not None or last or (output.error is not None and not self._forgiven(index + 1)):
            self._finish(flow)
        else:
            self._enter(flow, index + 1)

    def _forgiven(self, index: int) -> bool:
        handoff = self.links[index].config.handoff
        return handoff is not None and handoff.on_error == "user_prompt"

    def _stop(self, flow: Flow, error: Exception) -> bool:
        with flow.lock:
            if flow.over:
                return False
            flow.error = flow.error or error
            index = flow.index
        if self.links[index].gate.give_up(flow):
            self._finish(flow)
        else:
            self.links[index].stage.abort(flow.request_id)
        return True

    def _too_late(self, known: "weakref.ref[Flow]") -> None:
        """A deadline holds no request, so that what is done with its images can be freed before."""
        flow = known()
        if flow is not None:
            self._stop(flow, DeadlineExceededError(f"the request did not finish within {flow.timeout_s} s"))

    def _finish(self, flow: Flow, error: Exception | None = None) -> None:
        """Gives back whatever it held; its owner gets an output, once."""
        with flow.lock:
            over, flow.over = flow.over, True
            flow.error = flow.error or error
        if over:
            return
        for link in self.links:
            link.gate.leave(flow)
        self._flows.pop(flow.request_id, None)
        flow.future.set_result(flow.output())

    def _listener(self, flow: Flow, index: int) -> Any:
        if flow.tell is None:
            return None
        tell = flow.tell

        def on_progress(progress: Progress) -> None:
            tell(replace(progress, request_id=flow.request_id, stage=index))

        return on_progress
