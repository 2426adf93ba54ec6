"""Starting a job for the client of one HTTP request, and waiting for it as long as the client does."""

from starlette.requests import Request

from interlace.serve.http.errors import client_left
from interlace.serve.http.sse import unless_gone
from interlace.serve.jobs.job import RequestJob
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
    return registry.submit(order, job_id=state.request_id, kind=kind, client=state.client, background=background)


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
