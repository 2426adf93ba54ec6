"""The worker processes of one node, from the outside: started, listened to, started again when they die.

A worker runs its parent's own command line. An image that was under way when a worker died is a suspect: it is made
again last, and alone, so that the next death has one culprit. Knows nothing of rows, models and files.
"""

import json
import os
import queue
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from interlace.bulk.launch.nodes import Placement
from interlace.bulk.launch.signals import signals_go_to
from interlace.bulk.launch.worker import VARIABLE, Orders
from interlace.bulk.progress import ProgressView, Tally
from interlace.python.recent import Recent

MAX_DEATHS_OF_IMAGE = 3  # then it has failed
MAX_DEATHS_IN_A_ROW = 10  # of one worker, with no image finished in between
MAX_DEATHS_AT_START = 3  # in a row, before the first image: a worker that can't live
_POLL_S = 0.2
_MAX_HEARD = 4096  # lines: one that comes after so many others is said again
_DRAIN_S = 2.0  # for what a dead worker still said

_IS_POSIX = os.name == "posix"

Event = dict[str, Any]


class Worker:
    """One place for a process, with the memory of those that died in it."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.process: subprocess.Popen[str] | None = None
        self.status: int | None = None  # set when nothing more is to come
        self.fatal: str | None = None
        self.num_restarts = 0
        self.total: int | None = None  # images to make when it was first started
        self.before = self.done = self.failed = 0  # by dead processes; by this one
        self.mean_rows: float | None = None
        self._under_way: dict[str, None] = {}
        self._deaths: Counter[str] = Counter()
        self._condemned: dict[str, str] = {}
        self._deaths_in_a_row = self._deaths_at_start = 0
        self._has_ended = False

    def note(self, event: Event) -> None:
        match event["event"]:
            case "survey":
                self.total = event["to_do"] if self.total is None else self.total
                self.before = max(self.total - event["to_do"] - len(self._condemned), 0)
                self.done = self.failed = 0
            case "began":
                self._under_way[event["name"]] = None
            case "ended":
                self._under_way.pop(event["name"], None)
                self._deaths.pop(event["name"], None)
                self._deaths_in_a_row = 0
                self.done, self.failed, self.mean_rows = event["done"], event["failed"], event["mean_rows"]
            case "end":
                self._has_ended = True
                self.status, self.fatal = event["status"], event["fatal"]

    @property
    def num_condemned(self) -> int:
        return len(self._condemned)

    def died(self, code: int) -> str | None:
        """What to tell of a process that is gone, or None where it had simply come to its end."""
        if self._has_ended:
            return None
        if code in (0, 1, 2):  # it said what was wrong, such as a model that can't be loaded
            self.status = code or 1
            return None
        why = f"signal {-code}{', often a lack of memory' if code == -9 else ''}" if code < 0 else f"status {code}"
        self._deaths_in_a_row += 1
        for name in self._under_way:
            self._deaths[name] += 1
            if self._deaths[name] >= MAX_DEATHS_OF_IMAGE:
                self._condemned[name] = f"the process died {self._deaths.pop(name)} times at this image ({why})"
        self._deaths_at_start = 0 if self._under_way else self._deaths_at_start + 1
        self._under_way.clear()
        if self._deaths_in_a_row >= MAX_DEATHS_IN_A_ROW or self._deaths_at_start >= MAX_DEATHS_AT_START:
            self.status = 1
            self.fatal = f"a process died {self._deaths_in_a_row} times in a row and finished nothing ({why})"
            return self.fatal
        self.num_restarts += 1
        suspects = sorted(self._deaths, key=lambda name: self._deaths[name])
        self.orders = replace(
            self.orders, is_restart=True, total=self.total, suspects=suspects, condemned=dict(self._condemned)
        )
        return f"process {self.orders.partition.process} died ({why}) and is started again; nothing is lost"


@dataclass(frozen=True)
class NodeOutcome:
    """How a node's workers ended."""

    status: int
    stopped_by: int | None = None
    fatal: str | None = None
    num_restarts: int = 0


@dataclass
class Workers:
    """Runs all of a node's workers to their ends."""

    command: Sequence[str]
    placement: Placement
    descriptors: tuple[int, ...] = ()  # held open by every worker
    stopped_by: int | None = None
    _events: "queue.SimpleQueue[tuple[Worker, Event]]" = field(default_factory=queue.SimpleQueue)
    _readers: dict[Worker, threading.Thread] = field(default_factory=dict)
    _heard: Recent[str, Worker] = field(default_factory=lambda: Recent(_MAX_HEARD))  # lines, and who said them first
    _hearing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        num = self.placement.num_processes
        self.workers = [Worker(Orders(partition=self.placement.partition(process, num))) for process in range(num)]

    def run(self, num_jobs: int, what: str) -> NodeOutcome:
        self._tally = Tally(num_jobs, what)
        self._view = ProgressView(self._tally, self._mean_rows)
        try:
            with self._view, signals_go_to(self._on_signal):
                for worker in self.workers:
                    self._start(worker)
                while any(worker.status is None or worker in self._readers for worker in self.workers):
                    self._listen(_POLL_S)
                    for worker in list(self._readers):
                        self._look_after(worker)
        finally:
            self._signal_all(signal.SIGTERM)
        statuses = [worker.status or 0 for worker in self.workers]
        if any(worker.num_condemned for worker in self.workers):
            statuses.append(1)
        return NodeOutcome(
            status=128 + self.stopped_by if self.stopped_by is not None else max(statuses),
            stopped_by=self.stopped_by,
            fatal=next((worker.fatal for worker in self.workers if worker.fatal), None),
            num_restarts=sum(worker.num_restarts for worker in self.workers),
        )

    def _start(self, worker: Worker) -> None:
        worker.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment(worker),
            pass_fds=self.descriptors if _IS_POSIX else (),
            process_group=0 if _IS_POSIX else None,  # a terminal's Ctrl-C comes to this process, which hands it on
        )
        with suppress(BrokenPipeError):
            assert worker.process.stdin is not None
            worker.process.stdin.write(worker.orders.to_json() + "\n")
            worker.process.stdin.flush()
        reader = threading.Thread(target=self._read_events, args=(worker, worker.process), daemon=True)
        self._readers[worker] = reader
        reader.start()
        threading.Thread(target=self._read_words, args=(worker, worker.process), daemon=True).start()

    def _environment(self, worker: Worker) -> Mapping[str, str]:
        environment = {**os.environ, VARIABLE: "1"}
        threads = int(os.environ.get("OMP_NUM_THREADS") or _num_cores())
        environment["OMP_NUM_THREADS"] = str(max(threads // len(self.workers), 1))
        if self.placement.devices:
            environment[self.placement.variable] = self.placement.devices[worker.orders.partition.process]
        return environment

    def _read_events(self, worker: Worker, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):  # a line that death cut short
                event = json.loads(line)
                self._events.put((worker, event))

    def _read_words(self, worker: Worker, process: "subprocess.Popen[str]") -> None:
        """What a worker says for people; what all of them say alike is passed on once."""
        assert process.stderr is not None
        for line in process.stderr:
            with self._hearing:
                first = self._heard.setdefault(line, worker)
            if line.strip() and first is worker:
                self._view.say(line.rstrip())

    def _listen(self, timeout: float) -> None:
        with suppress(queue.Empty):
            worker, event = self._events.get(timeout=timeout)
            while True:
                self._hear(worker, event)
                worker, event = self._events.get_nowait()

    def _hear(self, worker: Worker, event: Event) -> None:
        worker.note(event)
        if event["event"] == "message":
            self._view.message(event["text"])
        if event["event"] == "began" and not any(other.done or other.failed for other in self.workers):
            self._tally.restart_clock()
        self._tally.done = sum(worker.before + worker.done for worker in self.workers)
        self._tally.failed = sum(worker.failed + worker.num_condemned for worker in self.workers)
        self._view.update()

    def _look_after(self, worker: Worker) -> None:
        """Deals with a process that has ended."""
        assert worker.process is not None
        code = worker.process.poll()
        if code is None:
            return
        self._readers.pop(worker).join(_DRAIN_S)
        self._listen(0)
        words = worker.died(code)
        if self.stopped_by is not None:
            worker.status = worker.status or 128 + self.stopped_by
            return
        if words is not None:
            self._view.say(words)
        if worker.status is None:
            self._start(worker)

    def _mean_rows(self) -> float | None:
        known = [worker.mean_rows for worker in self.workers if worker.mean_rows is not None]
        return sum(known) / len(known) if known else None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C and SIGTERM let every worker finish what is under way; a second one ends all on the spot."""
        if self.stopped_by is not None:
            self._signal_all(getattr(signal, "SIGKILL", signal.SIGTERM))
            self._view.stop()
            os._exit(128 + number)
        self.stopped_by = number
        os.write(2, b"\nstopping: every process finishes what is under way; again: at once\n")
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.send_signal(number)


def _num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
