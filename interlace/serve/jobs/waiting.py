"""Starting a job for the client of one HTTP request, and waiting for it as long as the client does."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack

from starlette.requests import Request

from interlace.serve.http.errors import client_left
from interlace.serve.http.sse import EventStream, Frame, unless_gone
from interlace.serve.jobs.job import Event, RequestJob
from interlace.serve.jobs.registry import Registry
from interlace.serve.orders.order import Order


def start(request: Request, registry: Registry, order: Order, kind: str, *, background: bool = False) -> RequestJob:
    """Submits under the request's id, and notes for the log what it is. Raises `ApiError` where it can't come in."""
    state = request.state
    width, height = order.size
    facts = {"model": order.lane.name, "size": f"{width}x{height}", "steps": order.num_steps, "n": order.num_images}
    if order.user:
        facts["user"] = order.user
    if registry.settings.log_prompts:
        facts["prompt"] = order.prompt
    state.note.update(facts)
    state.warnings += order.warnings
    with state.coming:
        return registry.submit(order, job_id=state.request_id, kind=kind, client=state.client, background=background)


def streamed(
    registry: Registry, job: RequestJob, frames: Callable[["asyncio.Queue[Event]"], AsyncGenerator[Frame, None]]
) -> EventStream:
    """A stream of all that happens to a job that was started just now; a client that leaves, however early, ends it."""
    following = ExitStack()
    events = following.enter_context(registry.followed(job))
    return EventStream(frames(events), registry.settings.stream_keep_alive_s, following.close)


async def finished(request: Request, registry: Registry, job: RequestJob) -> None:
    """Returns at the end of a job; a client that leaves ends it. Raises `ApiError` where it failed."""
    try:
        if not await unless_gone(request, job.ended):
            request.state.left = True
            registry.metrics.disconnects.inc()
            registry.cancel(job, client_left())
    finally:
        registry.cancel(job)
    if job.error is not None:
        raise job.error
