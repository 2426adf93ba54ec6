"""A replica of Ray Serve with engines in it: requests in, what a replica says of them out (Told, then Done).

Models are opened when they are first asked for, at most so many at once; Serve routes by which replica has one open.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from time import monotonic
from typing import Any

from ray import serve

from interlace.errors import AbortedError
from interlace.ray.serving.scaling import Backlog
from interlace.request import Output, Progress, Request
from interlace.stages.replicas.processes.channel import packed, unpacked
from interlace.stages.replicas.processes.messages import Counted, Done, Opened, Told
from interlace.stages.replicas.processes.shadow import without_weights
from interlace.stages.replicas.work import work_of

Opener = Callable[[], Any]
Parts = list[bytes]


class OpenModel:
    """A stage that Serve may put away: then it is closed."""

    def __init__(self, opener: Opener) -> None:
        self.stage = opener()
        self.facts: Mapping[str, Any] = self.stage.describe()

    def __del__(self) -> None:
        stage = getattr(self, "stage", None)
        if stage is not None:
            stage.close()


class EngineReplica:
    """What Serve runs several of. `openers` make the models' stages by name, the first of them at once."""

    async def __init__(self, openers: Mapping[str, Opener], max_models: int) -> None:  # type: ignore[misc]
        self._openers = openers
        self._backlog = Backlog()

        async def load(name: str) -> OpenModel:
            return await asyncio.to_thread(OpenModel, openers[name])

        self._load = serve.multiplexed(max_num_models_per_replica=max_models)(load)
        await self._load(next(iter(openers)))

    async def describe(self, name: str) -> Parts:
        """`Opened`, as a replica in a process says it."""
        model = await self._load(name)
        return packed(Opened(facts=model.facts, model=await asyncio.to_thread(without_weights, model.stage)))

    async def run(self, name: str, parts: Parts) -> AsyncIterator[list[Parts]]:
        """The messages about one request, until it has ended. Left before that, the request is aborted."""
        model = await self._load(name)
        request: Request = unpacked(parts)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[object]()

        def tell(message: object) -> None:
            loop.call_soon_threadsafe(events.put_nowait, message)

        def progressed(progress: Progress) -> None:
            self._backlog.progressed(progress, monotonic())
            tell(Told(progress=progress))

        def ended(future: "Future[Output]") -> None:
            output = future.result()
            self._backlog.ended(request.request_id, monotonic(), ok=output.error is None)
            tell(Done(output=output))

        amount = work_of(request, model.facts.get("defaults", {})).amount
        self._backlog.began(request.request_id, amount, monotonic())
        model.stage.submit(request, progressed).add_done_callback(ended)
        done = False
        try:
            while not done:
                together = [await events.get()]
                while not events.empty():
                    together.append(events.get_nowait())
                done = isinstance(together[-1], Done)
                if done:
                    engine = getattr(model.stage, "engine", None)
                    forwarding = engine.forwarding() if engine is not None else ()
                    counts = engine.statistics() if engine is not None else model.stage.stats()
                    together.insert(0, Counted(counts=counts, forwarding=forwarding, process=os.getpid()))
                yield [_packed(message) for message in together]
        finally:
            if not done:
                model.stage.abort(request.request_id)

    def left(self) -> int:
        """How many requests are here."""
        return len(self._backlog)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve's autoscaler."""
        return {"queue_s": self._backlog.seconds}


def _packed(message: object) -> Parts:
    """An output that can't travel is its request's error."""
    try:
        return packed(message)
    except Exception as error:
        if not isinstance(message, Done):
            raise
        told = TypeError(f"what came out can't be sent to another process: {error}")
        return packed(Done(output=Output(request_id=message.output.request_id, error=told)))


def aborted(request: Request) -> Done:
    """What is said of a request that its owner gave up."""
    error = AbortedError(f"request {request.request_id} was aborted")
    return Done(output=Output(request_id=request.request_id, prompt=request.prompt, error=error))
