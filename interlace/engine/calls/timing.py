"""How long forwards take: for the counts always, for the cost model where one more sample is worth it.

On a device with streams the time is its own, between two events, and is read when it has come that far; the host's
seconds are those that queueing took. Where torch has no such events (MPS) a sample waits for the device.
"""

from collections import deque
from time import perf_counter
from typing import NamedTuple

import torch

from interlace.engine import accelerator
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.counts import ForwardCounts
from interlace.engine.device.streams import Stopwatch, has_streams
from interlace.engine.policy.cost import CostModel
from interlace.python.recent import Recent

_MOST = 4096  # shapes with their rows that are known to have run
_CPU = torch.device("cpu")


class Start(NamedTuple):
    """When a forward began: on the host's clock, and on the device's where it has one."""

    at: float
    device: torch.device
    watch: Stopwatch | None


class ForwardTimer:
    """Tells `counts` and `cost` of every forward."""

    def __init__(self, cost: CostModel, counts: ForwardCounts) -> None:
        self._cost, self._counts = cost, counts
        self._warm: Recent[tuple[str, int], None] = Recent(_MOST)  # what ran before: the first time takes longer
        self._running: deque[tuple[str, int, Stopwatch]] = deque()

    def start(self, call: ModuleCall) -> Start:
        """A forward of calls like this one begins."""
        device = next((one.device for one in call.leaves if isinstance(one, torch.Tensor)), _CPU)
        return Start(perf_counter(), device, Stopwatch(device) if has_streams(device) else None)

    def ran(self, label: str, shape: str, rows: int, start: Start, *, learn: bool = True) -> float:
        """A forward is over, or is on the device. Returns its seconds."""
        self._collect()
        waits = start.device.type != "cpu" and start.watch is None
        measured = learn and bool(shape) and self._cost.wanted(shape, rows, free=not waits)
        if measured and waits:
            accelerator.synchronize(start.device)
        seconds = perf_counter() - start.at
        if measured and (shape, rows) in self._warm:
            if start.watch is None:
                self._cost.observe(shape, rows, seconds)
            else:
                start.watch.stop()
                self._running.append((shape, rows, start.watch))
        self._warm[shape, rows] = None
        self._counts.forward(label, rows, seconds)
        return seconds

    def _collect(self) -> None:
        """Samples of forwards that the device is done with."""
        while self._running and (seconds := self._running[0][2].seconds()) is not None:
            shape, rows, _ = self._running.popleft()
            self._cost.observe(shape, rows, seconds)
