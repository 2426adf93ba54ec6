"""A request on its way to a replica and back, and the places that it may be at. Owned by `Replicas`, under its lock."""

import itertools
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from interlace.engine.statistics import LiveRequest
from interlace.request import Output, Progress, Request, SamplingParams
from interlace.stages.replicas.backoff import Backoff
from interlace.stages.replicas.counts import ReplicaStatus
from interlace.stages.replicas.processes.messages import Counted, Submit
from interlace.stages.replicas.processes.process import ReplicaHandle, ReplicaSpec
from interlace.stages.replicas.routing import Load, Speed
from interlace.stages.replicas.work import ReplicaWork
from interlace.stages.stage import Listener


@dataclass(eq=False)
class Errand:
    """A request with everything that it takes to run it again, the same, elsewhere."""

    request: Request
    listener: Listener | None
    work: ReplicaWork
    future: "Future[Output]" = field(default_factory=Future)
    order: int = field(default_factory=itertools.count().__next__)
    submitted: float = field(default_factory=monotonic)
    place: "Place | None" = None
    deaths: int = 0  # of processes that may have died of it
    begun: bool = False  # where it is now
    share: float = 0.0  # of its steps that are done there
    step: int = 0
    num_steps: int = 0
    rows: int = 0  # of the last forward that it took part in
    aborted: bool = False

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def message(self, now: float) -> Submit:
        """It, with the time that is left of its own."""
        request, sampling = self.request, self.request.sampling
        if isinstance(sampling, SamplingParams) and sampling.timeout_s is not None:
            left = max(sampling.timeout_s - (now - self.submitted), 0.0)
            request = replace(request, sampling=replace(sampling, timeout_s=left))
        return Submit(request=request)

    def live(self) -> LiveRequest:
        """What it tells of itself, and at which replica it is."""
        return {
            "request_id": self.request_id,
            "state": "running" if self.begun else "waiting",
            "step": self.step,
            "num_steps": self.num_steps,
            "rows": self.rows,
            "replica": None if self.place is None else self.place.index,
        }

    def leave(self) -> None:
        """It is nowhere now, and has to begin anew."""
        self.place, self.begun, self.share, self.step = None, False, 0.0, 0

    @property
    def left(self) -> float:
        """The amount of work that is still to be done."""
        return self.work.amount * (1 - self.share)


@dataclass(eq=False)
class Place:
    """Where one replica lives: its process now, what it has to do, how quick it is, how often it was restarted."""

    index: int
    spec: ReplicaSpec
    process: ReplicaHandle | None = None
    opened: float | None = None  # since when its stage is open, on the clock of `time.monotonic`
    facts: Mapping[str, Any] = field(default_factory=dict)
    counted: Counted | None = None  # what it said last of its counts
    live: dict[str, Errand] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def is_up(self) -> bool:
        """Whether requests can be sent there."""
        return self.opened is not None

    @property
    def has_room(self) -> bool:
        """Whether it is up and may be given one more."""
        most = self.spec.max_live
        return self.is_up and (most is None or len(self.live) < most)

    @property
    def left(self) -> float:
        return sum(errand.left for errand in self.live.values())

    def status(self) -> ReplicaStatus:
        """For people and metrics."""
        return ReplicaStatus(
            replica=self.index,
            state="up" if self.is_up else "starting",
            pid=self.process.pid if self.process else None,
            live=len(self.live),
            restarts=self.backoff.num_restarts,
            engine={} if self.counted is None else self.counted.counts,
        )

    def load(self) -> Load:
        """For routing."""
        keys = {errand.work.key for errand in self.live.values()}
        return Load(self.index, self.left, self.speed.value, keys, len(self.live))

    def take(self, errand: Errand, now: float) -> None:
        """It is to be done here."""
        errand.place = self
        self.live[errand.request_id] = errand
        self.speed.busy(now)

    def progressed(self, errand: Errand, progress: Progress, now: float) -> None:
        """So many of its steps are done."""
        errand.begun = True
        errand.step, errand.rows = max(errand.step, progress.step), progress.rows or errand.rows
        errand.num_steps = progress.num_steps or errand.num_steps
        share = min(progress.step / progress.num_steps, 1.0) if progress.num_steps else 0.0
        if share > errand.share:
            self.speed.done((share - errand.share) * errand.work.amount, now)
            errand.share = share

    def ended(self, errand: Errand, now: float, *, ok: bool) -> None:
        """It is done with, here."""
        self.live.pop(errand.request_id, None)
        if ok:
            self.speed.done(errand.left, now)
        if not self.live:
            self.speed.idle(now)

    def emptied(self, now: float) -> list[Errand]:
        """The process is gone: what it had."""
        victims = list(self.live.values())
        self.live.clear()
        self.speed.idle(now)
        return victims
