"""Several processes with the same stage, as one stage.

A request goes where it is predicted to be done first. When a process dies it is started again, and what it had under
way runs elsewhere with the same seeds; a request that kills three is that request's error. None of this blocks
whoever submits: messages come in threads of their own, and the futures are given their results there.
"""

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from interlace.engine.statistics import LiveRequest
from interlace.errors import AbortedError, EngineClosedError, EngineDeadError, InvalidRequestError, RequestError
from interlace.request import Output, Progress, Request
from interlace.stages.flow.deadlines import Deadlines
from interlace.stages.replicas.counts import Counts, ReplicaStatus, plain, summed
from interlace.stages.replicas.dispatch import Dispatch
from interlace.stages.replicas.errand import Errand, Place
from interlace.stages.replicas.processes.messages import Abort, Counted, Done, Opened, Refused, Told
from interlace.stages.replicas.processes.process import ReplicaHandle, ReplicaSpec
from interlace.stages.replicas.suspicion import MAX_DEATHS, blamed
from interlace.stages.replicas.work import work_of
from interlace.stages.stage import Listener

if TYPE_CHECKING:
    from interlace.models.loader import LoadedModel

logger = logging.getLogger("interlace.stages")

Effects = list[Callable[[], object]]


class ReplicaStage:
    """A stage in processes. Opening it waits for `num_needed` of them, by default all; the others may come later.

    Raises what keeps the first of them from opening.
    """

    def __init__(self, specs: Sequence[ReplicaSpec], num_needed: int | None = None) -> None:
        self.places = [Place(index, spec) for index, spec in enumerate(specs)]
        self._errands: dict[str, Errand] = {}
        self._dispatch = Dispatch()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._refused: Exception | None = None
        self.shadow: LoadedModel | None = None  # of a stage that draws: its model without weights
        self._closed = False
        self._clock = Deadlines()
        try:
            for place in self.places:
                self._start(place)
            self._wait_until_open(len(specs) if num_needed is None else num_needed)
        except BaseException:
            for place in self.places:
                if place.process is not None:
                    place.process.kill()
            self.close()
            raise

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a replica describes itself as."""
        return next((place.facts for place in self.places if place.facts), {})

    @property
    def is_open(self) -> bool:
        """Whether one process lives that does requests; those that come while there is none wait for the next."""
        return not self._closed and any(place.is_up for place in self.places)

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Output]":
        """As `Stage.submit`: what goes wrong is in the output's `error`."""
        request_id = request.request_id
        if request.sampling.seed is None:  # another process draws from the same
            request = replace(request, sampling=replace(request.sampling, seed=secrets.randbelow(2**32)))
        errand = Errand(request, listener, work_of(request, self.facts.get("defaults", {})))
        with self._change() as effects:
            if self._closed:
                self._end(errand, EngineClosedError("the replicas are closed; open new ones"), effects)
            elif request_id in self._errands:
                self._end(errand, InvalidRequestError(f"request_id {request_id!r} is in use", "request_id"), effects)
            else:
                self._errands[request_id] = errand
                self._dispatch.add(errand)
        return errand.future

    def abort(self, request_id: str) -> bool:
        """End a request wherever it is. False when there is no such request."""
        with self._change() as effects:
            errand = self._errands.get(request_id)
            if errand is None:
                return False
            errand.aborted = True
            process = errand.place.process if errand.place is not None else None
            if process is not None:
                effects.append(lambda: process.send(Abort(request_id=request_id)))
            else:
                self._drop(errand, AbortedError(f"request {request_id} was aborted"), effects)
            return True

    def stats(self) -> dict[str, object]:
        """The sum of the replicas' own statistics, and each of them under `replicas`: state, restarts, requests."""
        counts = self.counts()
        return {
            **({} if counts is None else plain(counts)),
            "waiting": len(self._dispatch.waiting),
            "replicas": [one.as_dict() for one in self.replicas()],
        }

    def counts(self) -> Counts | None:
        """The sum of what the replicas told last; None where none has."""
        return summed([place.counted.counts for place in self.places if place.counted is not None])

    def replicas(self) -> list[ReplicaStatus]:
        """Each of them now."""
        return [place.status() for place in self.places]

    def live(self) -> list[LiveRequest]:
        """As `Engine.live`: every request without a result, oldest first, and at which replica it is."""
        return [errand.live() for errand in sorted(self._errands.values(), key=lambda one: one.order)]

    def forwarding(self) -> tuple[str, ...]:
        """The requests that share the widest of the replicas' current forwards; as they said last."""
        groups = [place.counted.forwarding for place in self.places if place.counted is not None and place.live]
        return max(groups, key=len, default=())

    def describe(self) -> dict[str, object]:
        """As one replica does, and how many there are."""
        return {**self.facts, "replicas": len(self.places)}

    def close(self) -> None:
        """End the processes; pending requests end with an error. May be called twice."""
        with self._change() as effects:
            self._closed = True
            for errand in list(self._dispatch.waiting):
                self._drop(errand, EngineClosedError("the replicas were closed before it was done"), effects)
            processes = [place.process for place in self.places if place.process is not None]
            for place in self.places:
                if place.process is not None and not place.is_up:
                    place.process.kill()  # it would hear of it only when its model is loaded
        self._clock.close()
        closing = [threading.Thread(target=process.close) for process in processes]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    @contextlib.contextmanager
    def _change(self) -> Iterator[Effects]:
        """State changes under the lock; what others see of it comes after."""
        effects: Effects = []
        with self._lock:
            yield effects
            if not self._closed:
                self._assign(effects)
            self._changed.notify_all()
        for effect in effects:
            effect()

    def _wait_until_open(self, num_needed: int) -> None:
        with self._lock:
            while sum(place.is_up for place in self.places) < num_needed:
                if self._refused is not None:
                    raise self._refused
                dead = next((place for place in self.places if place.backoff.hopeless), None)
                if dead is not None:
                    raise EngineDeadError(f"the process of {dead.spec.name} died again and again before it was open")
                self._changed.wait()

    def _start(self, place: Place) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                place.process = place.spec.start(partial(self._heard, place))
            except OSError as error:  # no memory, no more processes
                logger.warning("%s can't be started: %s", place.spec.name, error)
                self._clock.add(place.backoff.died(None), lambda: self._start(place))

    def _heard(self, place: Place, process: ReplicaHandle, message: object) -> None:
        """In the thread that listens to the place's process."""
        match message:
            case Told(progress=progress):
                self._progressed(place, progress)
            case Done(output=output):
                self._done(place, process, output)
            case Counted():
                place.counted = message
            case Opened(facts=facts, model=model):
                with self._change():
                    self.shadow = self.shadow or model
                    place.facts, place.opened = facts, monotonic()
                    place.backoff.opened()
            case Refused(error=error):
                self._refused = self._refused or error
                logger.error("%s could not be opened: %s", place.spec.name, error)
                process.kill()
            case None:
                self._died(place, process.why())

    def _progressed(self, place: Place, progress: Progress) -> None:
        with self._lock:
            errand = place.live.get(progress.request_id)
            if errand is None:
                return
            place.progressed(errand, progress, monotonic())
        if errand.listener is not None:
            errand.listener(replace(progress, replica=place.index))

    def _done(self, place: Place, process: ReplicaHandle, output: Output) -> None:
        with self._change() as effects:
            errand = place.live.get(output.request_id)
            if errand is None:
                return
            if isinstance(output.error, EngineDeadError) and not errand.aborted:
                logger.error("%s: %s", place.spec.name, output.error)
                process.kill()  # what it had runs elsewhere
                return
            place.ended(errand, monotonic(), ok=output.error is None)
            self._errands.pop(errand.request_id, None)
            effects.append(lambda: _set(errand.future, output))

    def _died(self, place: Place, why: str) -> None:
        """Its process is gone: start another, and run elsewhere what it had."""
        with self._change() as effects:
            now, lived = monotonic(), None if place.opened is None else monotonic() - place.opened
            victims = place.emptied(now)
            place.opened = None
            if self._closed:
                for errand in victims:
                    self._end(errand, EngineClosedError("the replicas were closed before it was done"), effects)
                return
            wait = place.backoff.died(lived)
            logger.warning("%s died (%s) with %d requests; it is started again in %.2g s and nothing is lost",
                           place.spec.name, why, len(victims), wait)  # fmt: skip
            for errand in blamed(victims):
                errand.deaths += 1
            for errand in victims:
                self._again(errand, why, effects)
            self._clock.add(wait, lambda: self._start(place))

    def _again(self, errand: Errand, why: str, effects: Effects) -> None:
        errand.leave()
        if errand.aborted:
            self._end(errand, AbortedError(f"request {errand.request_id} was aborted"), effects)
        elif errand.deaths >= MAX_DEATHS:
            died = f"{errand.deaths} processes died while they ran this request ({why}); it is not tried again"
            self._end(errand, RequestError(died), effects)
        else:
            self._dispatch.add(errand)

    def _assign(self, effects: Effects) -> None:
        """Hands out what waits, as far as there is somebody to do it."""
        for errand, place in self._dispatch.assign(self.places, monotonic()):
            effects.append(partial(self._send, errand, place))
        if all(place.backoff.hopeless and not place.is_up for place in self.places):
            for errand in list(self._dispatch.waiting):
                self._drop(errand, EngineDeadError("no replica can be started; see the log"), effects)

    def _send(self, errand: Errand, place: Place) -> None:
        process = place.process
        assert process is not None
        try:
            process.send(errand.message(monotonic()))
            if errand.aborted:  # while it was on the way
                process.send(Abort(request_id=errand.request_id))
        except Exception as error:
            text = f"the request can't be sent to another process: {type(error).__name__}: {error}"
            with self._change() as effects:
                place.ended(errand, monotonic(), ok=False)
                self._end(errand, InvalidRequestError(text), effects)

    def _drop(self, errand: Errand, error: Exception, effects: Effects) -> None:
        """Out of the line, with an error."""
        if self._dispatch.remove(errand):
            self._end(errand, error, effects)

    def _end(self, errand: Errand, error: Exception, effects: Effects) -> None:
        if self._errands.get(errand.request_id) is errand:
            del self._errands[errand.request_id]
        output = Output(request_id=errand.request_id, prompt=errand.request.prompt, error=error)
        effects.append(lambda: _set(errand.future, output))


def _set(future: "Future[Output]", output: Output) -> None:
    with contextlib.suppress(InvalidStateError):  # its owner has cancelled it
        future.set_result(output)
