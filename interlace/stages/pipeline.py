"""Requests flow from stage to stage, each as soon as it is done there; nobody waits for the others.

Every stage batches by itself. Nothing here blocks: what a request does next runs in a small pool of threads.
"""

import contextlib
import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from time import monotonic
from typing import Any

from interlace.engine.threads import run_alone
from interlace.errors import AbortedError, DeadlineExceededError, EngineClosedError, InvalidRequestError
from interlace.request import Output, Progress, Request
from interlace.stages.diffusion import DiffusionStage
from interlace.stages.flow.deadlines import Deadlines
from interlace.stages.flow.flow import Flow
from interlace.stages.flow.link import Link, StageCounts
from interlace.stages.parse import requests_for
from interlace.stages.replicas.front import DrawingReplicas
from interlace.stages.stage import Listener

logger = logging.getLogger("interlace.stages")


class Pipeline:
    """Takes requests, gives futures. `links` are the stages in order."""

    def __init__(self, links: Sequence[Link], num_workers: int = 4) -> None:
        self.links = tuple(links)
        self.configs = tuple(link.config for link in links)
        self._flows: dict[str, Flow] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._workers = ThreadPoolExecutor(num_workers, "interlace-handoff", run_alone)
        self._deadlines = Deadlines()
        # One stage that draws, here, keeps to timeouts by itself, between two forwards.
        alone = len(links) == 1 and self.configs[0].stage_type == "diffusion"
        self._keeps_time = not alone or self.configs[0].in_processes

    @property
    def drawing(self) -> DiffusionStage | DrawingReplicas | None:
        """The last stage that draws; None where none does."""
        drawing = (
            one.stage for one in reversed(self.links) if isinstance(one.stage, (DiffusionStage, DrawingReplicas))
        )
        return next(drawing, None)

    def submit(
        self, request: Request, listener: Listener | None = None, *, return_stages: bool = False
    ) -> "Future[Output]":
        """Queue one request; its future always gets an output. Cancelling the future aborts the request.

        Raises `EngineClosedError`, or `InvalidRequestError` when its id is in use or it says what no stage can do.
        """
        flow = Flow(request, requests_for(request, self.configs), listener, return_stages)
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed; make a new one")
            if flow.request_id in self._flows:
                raise InvalidRequestError(
                    f"request_id {flow.request_id!r} is already in use; choose another", "request_id"
                )
            self._flows[flow.request_id] = flow
        flow.future.add_done_callback(lambda done: done.cancelled() and self._stop(flow, _aborted()))
        if self._keeps_time and flow.timeout_s is not None:
            forget = self._deadlines.add(flow.timeout_s, partial(self._too_late, weakref.ref(flow)))
            flow.future.add_done_callback(lambda _: forget())
        if self.links[0].slots.enter(flow, partial(self._spawn, flow, 0)):
            self._guarded_run(flow, 0)
        return flow.future

    def gathering(self) -> contextlib.AbstractContextManager[None]:
        """Within, requests are submitted that are to start together, as far as the first stage can see to that."""
        first = self.links[0].stage
        return first.engine.gathering() if isinstance(first, DiffusionStage) else contextlib.nullcontext()

    def abort(self, request_id: str) -> bool:
        """End a request wherever it is. False when there is no such request."""
        flow = self._flows.get(request_id)
        return flow is not None and self._stop(flow, _aborted())

    def counts(self) -> list[StageCounts]:
        """A stage each: requests so far and now, and the seconds that they spent there."""
        return [link.counts() for link in self.links]

    def stats(self) -> list[dict[str, object]]:
        """`counts` as dicts, each with its own engine's statistics under `engine`."""
        pairs = zip(self.counts(), self.links, strict=True)
        return [{**asdict(counts), "engine": link.stage.stats()} for counts, link in pairs]

    def describe(self) -> dict[str, Any]:
        """The description of the stage that draws, with that of each stage under `stages`."""
        each = [link.stage.describe() for link in self.links]
        last = next((one for one in reversed(each) if "pipeline" in one), each[-1])
        own = [
            {"stage_id": config.stage_id, "stage_type": config.stage_type, **described,
             "handoff": config.handoff.function if config.handoff else None}
            for config, described in zip(self.configs, each, strict=True)
        ]  # fmt: skip
        return {**last, "model": " -> ".join(config.model for config in self.configs), "stages": own}

    def close(self) -> None:
        """Pending requests end with an error; then the stages are closed. May be called twice."""
        with self._lock:
            self._closed = True
        closed = EngineClosedError("the engine was closed before this request was done")
        for flow in list(self._flows.values()):
            self._stop(flow, closed)
        for link in self.links:
            link.stage.close()
        self._deadlines.close()
        self._workers.shutdown()
        for flow in list(self._flows.values()):
            self._finish(flow, closed)

    def _go_on(self, flow: Flow, index: int) -> None:
        """Done at a stage, in that stage's thread: to the next one, at once or in line for it."""
        with flow.lock:
            flow.index = index
        if self.links[index].slots.enter(flow, partial(self._spawn, flow, index)):
            self._spawn(flow, index)
        elif flow.error is not None and self.links[index].slots.give_up(flow):  # aborted while it got in line
            self._finish(flow)

    def _spawn(self, flow: Flow, index: int) -> None:
        try:
            self._workers.submit(self._guarded_run, flow, index)
        except RuntimeError:  # closed in the meantime
            self._finish(flow, EngineClosedError("the engine was closed before this request was done"))

    def _guarded_run(self, flow: Flow, index: int) -> None:
        try:
            self._run(flow, index)
        except Exception as error:
            self.links[index].num_failed += 1
            self._finish(flow, error)

    def _run(self, flow: Flow, index: int) -> None:
        """It has its slot: make its request for this stage, hand it over, and give back the slot at the one before."""
        link = self.links[index]
        request = flow.at[0] if index == 0 else link.handed_over(flow)
        if index:
            self.links[index - 1].slots.leave(flow)
        if flow.error is not None:
            self._finish(flow)
            return
        start = monotonic()
        future = link.stage.submit(request, self._listener(flow, index))
        future.add_done_callback(lambda done: self._done(flow, index, done.result(), start))
        if flow.error is not None:  # aborted while it was handed over
            link.stage.abort(flow.request_id)

    def _done(self, flow: Flow, index: int, output: Output, start: float) -> None:
        """A stage is done with it, in that stage's thread."""
        link = self.links[index]
        link.seconds += monotonic() - start
        link.num_finished += output.error is None
        link.num_failed += output.error is not None
        with flow.lock:
            if flow.over:
                return
            flow.outputs.append(output)
        last = index == len(self.links) - 1
        if flow.error is not None or last or (output.error is not None and not self.links[index + 1].forgives):
            self._finish(flow)
        else:
            self._go_on(flow, index + 1)

    def _stop(self, flow: Flow, error: Exception) -> bool:
        with flow.lock:
            if flow.over:
                return False
            flow.error = flow.error or error
            index = flow.index
        if self.links[index].slots.give_up(flow):
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
            link.slots.leave(flow)
        self._flows.pop(flow.request_id, None)
        with contextlib.suppress(InvalidStateError):  # its owner has cancelled it
            flow.future.set_result(flow.output())

    def _listener(self, flow: Flow, index: int) -> Listener | None:
        listener, several = flow.listener, len(self.links) > 1
        if listener is None or not several:
            return listener

        def tell(progress: Progress) -> None:
            listener(replace(progress, stage=index))

        return tell


def _aborted() -> AbortedError:
    return AbortedError("the request was aborted")
