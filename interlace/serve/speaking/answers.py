"""Accepted requests until they are answered: who may come in, what happens to each, and how it ends."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import time

from interlace.errors import AbortedError
from interlace.omni import Omni
from interlace.request import Output, Progress, Request
from interlace.serve.http.errors import ApiError, api_error, pipeline_error
from interlace.serve.jobs.admission import Admission
from interlace.serve.metrics import ServerMetrics
from interlace.serve.settings import ServeSettings


@dataclass(eq=False)
class SpokenAnswer:
    """One request; lives on the event loop's thread. `events` has what happens to it, its `Output` or error last."""

    id: str
    client: str
    request: Request
    state: str = "queued"
    created: float = field(default_factory=time)  # Unix seconds
    error: ApiError | None = None
    events: "asyncio.Queue[Progress | Output | ApiError]" = field(default_factory=asyncio.Queue)
    background: bool = False  # results are never kept for later
    collected: bool = True

    def describe(self) -> dict[str, object]:
        """For lists of requests."""
        kept = {"id": self.id, "object": "request", "kind": "chat", "status": self.state}
        return {**kept, "created_at": int(self.created), "prompt": self.request.prompt}


class Answers:
    """Owned by the event loop's thread."""

    def __init__(self, omni: Omni, settings: ServeSettings, metrics: ServerMetrics, max_running: int) -> None:
        self.omni, self.settings, self.metrics = omni, settings, metrics
        self.admission = Admission(settings, lambda: max_running)
        self.jobs: dict[str, SpokenAnswer] = {}

    def live(self, client: str | None = None) -> list[SpokenAnswer]:
        """Requests under way, oldest first; of one client, or all."""
        return [one for one in self.jobs.values() if client in (None, one.client)]

    def submit(self, request: Request, client: str) -> SpokenAnswer:
        """Hand a request to the model. Raises `ApiError` where it can't come in (409, 429, 503)."""
        name = request.request_id
        if name in self.jobs:
            text = f"request id {name!r} is in use; send another in X-Request-Id, or none"
            raise ApiError(409, text, code="request_id_in_use", headers={"x-should-retry": "false"})
        self.admission.check(client, 1)
        self.admission.enter(client, 1)
        answer = self.jobs[name] = SpokenAnswer(name, client, request)
        loop = asyncio.get_running_loop()

        def tell(progress: Progress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(self._progressed, answer, progress)

        def done(future: "Future[Output]") -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._done, answer, future.result())

        self.omni.submit(request, listener=tell).add_done_callback(done)
        return answer

    def cancel(self, answer: SpokenAnswer, error: ApiError | None = None) -> None:
        """End a request; who waits for it gets `error`, by default that it was aborted."""
        if answer.id in self.jobs:
            answer.error = error or api_error(AbortedError(f"request {answer.id} was aborted"))
            answer.events.put_nowait(answer.error)
            self.omni.abort(answer.id)

    @contextlib.contextmanager
    def followed(self, answer: SpokenAnswer) -> Iterator[None]:
        """While its client waits: left before its end, the request is cancelled."""
        try:
            yield
        finally:
            if answer.id in self.jobs and answer.error is None:
                self.metrics.disconnects.inc()
                self.cancel(answer)

    async def next_event(self, answer: SpokenAnswer) -> Progress | Output:
        """The next event. Raises its error."""
        event = await answer.events.get()
        if isinstance(event, ApiError):
            raise event
        return event

    async def output(self, answer: SpokenAnswer) -> Output:
        """What it comes to. Raises `ApiError`."""
        with self.followed(answer):
            while True:
                event = await answer.events.get()
                if isinstance(event, ApiError):
                    raise event
                if isinstance(event, Output):
                    return event

    def _progressed(self, answer: SpokenAnswer, progress: Progress) -> None:
        answer.state = "in_progress"
        answer.events.put_nowait(progress)

    def _done(self, answer: SpokenAnswer, output: Output) -> None:
        self.jobs.pop(answer.id, None)
        metrics = output.metrics
        self.admission.leave(answer.client, metrics.total_s - metrics.queue_s if output.error is None else None)
        self.metrics.observe(metrics, output.error)
        failed = answer.error or (None if output.error is None else pipeline_error(output.error))
        self.metrics.requests.labels("chat", failed.code if failed else "ok").inc()
        if answer.error is None:
            answer.events.put_nowait(failed or output)
