"""serve/jobs/waiting.py and http/sse.py: a stream has all that happened, also what came before its client listened."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")

from interlace.request import Progress
from interlace.serve.http.sse import EventStream, Frame
from interlace.serve.jobs.job import Event, Part, RequestJob
from interlace.serve.jobs.registry import Registry
from interlace.serve.jobs.waiting import streamed
from interlace.serve.metrics import ServerMetrics
from interlace.serve.settings import ServeSettings


class Ended(Registry):
    """A registry without models: jobs are given to it, and it notes which ones it was to cancel."""

    def __init__(self) -> None:
        self.settings, self.metrics, self.cancelled = ServeSettings(), ServerMetrics(), []

    def cancel(self, job: RequestJob, error: Any = None) -> None:
        if not job.is_over:
            self.cancelled.append(job.id)


async def told(events: "asyncio.Queue[Event]") -> AsyncGenerator[Frame, None]:
    while (event := await events.get()).kind != "done":
        yield event.kind, {"step": event.step}


def new_job() -> RequestJob:
    order: Any = SimpleNamespace(num_previews=2, lane=SimpleNamespace(stage=0))
    return RequestJob("r", "generation", order, "c", [Part("r.0", 0, seed=1, num_steps=4)])


async def answered(stream: EventStream, *, leaves: bool) -> bytes:
    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    await stream({"type": "http", "state": {}}, receive, send)
    return b"".join(sent)


def test_steps_that_come_before_the_stream_begins_are_in_it() -> None:
    async def main() -> bytes:
        registry, job = Ended(), new_job()
        stream = streamed(registry, job, told)
        for step in (1, 2):
            registry._progressed(job, job.parts[0], Progress(request_id="r", step=step, num_steps=4, kind="step"))
        job.state = "completed"
        job.tell(Event("done"))
        text = await answered(stream, leaves=False)
        assert not registry.cancelled
        assert not job.watchers
        return text

    text = asyncio.run(main()).decode()
    assert [line for line in text.splitlines() if line.startswith("event")] == [
        "event: started", "event: step", "event: step"]  # fmt: skip


def test_a_client_that_is_gone_before_the_first_frame_ends_its_job() -> None:
    async def main() -> None:
        registry, job = Ended(), new_job()
        await answered(streamed(registry, job, told), leaves=True)
        assert registry.cancelled == ["r"]
        assert not job.watchers

    asyncio.run(main())
