"""serve/http/errors.py and middleware.py: a fault of ours is no fault of the client's, and is logged."""

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi")

from interlace.models.outputs import add_native
from interlace.request import Output, Progress
from interlace.serve.http.auth import Keys
from interlace.serve.http.errors import api_error, pipeline_error
from interlace.serve.http.middleware import Gate
from interlace.serve.jobs.job import Part, RequestJob
from interlace.serve.jobs.registry import Registry
from interlace.serve.metrics import ServerMetrics
from interlace.serve.settings import ServeSettings


def caught(call: Any) -> Exception:
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    return raised.value


def test_a_pipeline_that_refuses_is_a_400_with_a_line_in_the_log_and_our_own_slip_a_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = caught(lambda: inspect.signature(3))  # raised in a library's own code
    refused = pipeline_error(refusal)
    assert (refused.status, refused.code) == (400, "refused_by_pipeline")
    assert "a pipeline refused a request: TypeError: 3 is not a callable object" in caplog.text
    assert "inspect.py" in caplog.text
    ours = pipeline_error(caught(lambda: add_native(Output(request_id="r"), object())))
    assert (ours.status, ours.code) == (500, "internal_error")
    at_the_door = api_error(refusal)  # where no pipeline has seen it
    assert (at_the_door.status, at_the_door.code) == (500, "internal_error")


def test_partial_pictures_keep_their_numbers_however_late_they_are_read() -> None:
    picture = Image.new("RGB", (8, 8))
    part = Part("r.0", 0, seed=1, num_steps=4)
    order: Any = SimpleNamespace(num_previews=2, lane=SimpleNamespace(stage=0))
    job = RequestJob("r", "generation", order, "c", [part])

    async def numbers() -> list[int]:
        registry = Registry.__new__(Registry)  # it needs no model to tell of progress
        events = job.watch()
        for step in (1, 2, 3):
            registry._progressed(
                job, part, Progress(request_id="r", step=step, num_steps=4, kind="step", preview=picture)
            )
        told = [events.get_nowait() for _ in range(events.qsize())]
        return [event.index for event in told if event.kind == "preview"]

    assert asyncio.run(numbers()) == [0, 1], "two were asked for"


@pytest.mark.parametrize(("where", "status"), [("app", 500), ("send", None)])
def test_only_what_could_not_be_sent_means_that_the_client_is_gone(
    where: str, status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if where == "app":
            raise OSError("the disk is full")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        if where == "send":
            raise ConnectionResetError
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    gate = Gate(app, ServeSettings(), Keys([]), ServerMetrics())
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "client": ("127.0.0.1", 1), "state": {}}
    asyncio.run(gate(scope, receive, send))
    assert (sent[0]["status"] if sent else None) == status
    assert ("the disk is full" in caplog.text) == (where == "app")
