"""A deployment of engines as one replica of a stage: Serve routes and restarts, requests and progress stream.

What `ReplicaStage` asks of a process, over a handle. A request whose replica dies runs on another with the same seed.
"""

import asyncio
import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from interlace.errors import ModelLoadError, RequestError
from interlace.ray.serving.engines import aborted
from interlace.request import Output, Request
from interlace.stages.replicas.counts import Counts, summed
from interlace.stages.replicas.processes.channel import packed, unpacked
from interlace.stages.replicas.processes.messages import Abort, Close, Counted, Done, Refused, Submit, Told
from interlace.stages.replicas.processes.process import Listener, ReplicaHandle, ReplicaSpec
from interlace.stages.replicas.suspicion import MAX_DEATHS

logger = logging.getLogger("interlace.serve")


@dataclass(frozen=True, kw_only=True)
class DeploymentSpec(ReplicaSpec):
    """Which model of which deployment. `prefix` tells requests of one ingress from those of another."""

    handle: Any
    model: str
    prefix: str

    def start(self, listener: Listener) -> ReplicaHandle:
        return DeploymentReplica(self, listener)


class DeploymentReplica:
    """Speaks to the deployment in a thread of its own."""

    def __init__(self, spec: DeploymentSpec, listener: Listener) -> None:
        self.spec, self._listener = spec, listener
        self._handle = spec.handle.options(multiplexed_model_id=spec.model)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._counts: dict[int, Counts] = {}  # by the replicas' processes: what each said last
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"interlace-{spec.name}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """There are several."""
        return None

    def send(self, message: object) -> None:
        match message:
            case Submit(request=request):
                parts = packed(request.named(self.spec.prefix + request.request_id, request.preview_every))
                self._loop.call_soon_threadsafe(self._begin, request, parts)
            case Abort(request_id=request_id):
                self._loop.call_soon_threadsafe(self._cancel, request_id)
            case Close():
                self.kill()

    def kill(self) -> None:
        with suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self) -> None:
        self.kill()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def why(self) -> str:
        return "it was closed"

    def _run(self) -> None:
        opening = self._loop.create_task(self._open())
        self._loop.run_forever()
        opening.cancel()
        for task in self._tasks.values():
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(opening, *self._tasks.values(), return_exceptions=True))
        self._loop.close()
        self._listener(self, None)

    async def _open(self) -> None:
        try:
            self._listener(self, unpacked(await self._handle.describe.remote(self.spec.model)))
        except RayError as error:
            self._listener(self, Refused(error=ModelLoadError(f"{self.spec.model} can't be opened: {error}")))

    def _begin(self, request: Request, parts: list[bytes]) -> None:
        task = self._loop.create_task(self._follow(request, parts))
        self._tasks[request.request_id] = task
        task.add_done_callback(lambda done: self._tasks.pop(request.request_id, None))

    def _cancel(self, request_id: str) -> None:
        if request_id in self._tasks:
            self._tasks[request_id].cancel()

    async def _follow(self, request: Request, parts: list[bytes]) -> None:
        try:
            for _ in range(MAX_DEATHS):
                try:
                    await self._once(request, parts)
                    return
                except RayTaskError:
                    raise
                except RayActorError as error:
                    logger.warning(
                        "a replica of %s died with request %s: %s", self.spec.model, request.request_id, error
                    )
            raise RequestError(f"{MAX_DEATHS} replicas died while they ran this request; it is not tried again")
        except asyncio.CancelledError:
            self._listener(self, aborted(request))
        except Exception as error:
            output = Output(request_id=request.request_id, prompt=request.prompt, error=RequestError(str(error)))
            self._listener(self, Done(output=output))

    async def _once(self, request: Request, parts: list[bytes]) -> None:
        stream = self._handle.options(stream=True).run.remote(self.spec.model, parts)
        try:
            async for several in stream:
                for one in several:
                    self._hear(unpacked(one), request.request_id)
        except asyncio.CancelledError:
            stream.cancel()
            raise

    def _hear(self, message: Any, request_id: str) -> None:
        match message:
            case Counted(counts=counts, forwarding=forwarding, process=process):
                self._counts[process] = counts
                own = tuple(name.removeprefix(self.spec.prefix) for name in forwarding)
                message = Counted(counts=summed(list(self._counts.values())) or {}, forwarding=own)
            case Done(output=output):
                message = Done(output=replace(output, request_id=request_id))
            case Told(progress=progress):
                message = Told(progress=replace(progress, request_id=request_id))
        self._listener(self, message)
