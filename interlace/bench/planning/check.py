"""`interlace bench simulate --check`: what the simulator says of Poisson arrivals against the same ones really run.

Forwards are measured first, as `bench profile` does, and what Python adds by request and by call. The run is predicted
from these, and once more from what its own forwards took: what is left then is the simulator's fault alone.
"""

import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from interlace.bench.load.arrivals import poisson_times
from interlace.bench.load.percentiles import percentile
from interlace.bench.load.workloads import make_requests
from interlace.bench.machine import describe_model
from interlace.bench.planning.batch_curve import measured
from interlace.bench.planning.calls import calls_of
from interlace.bench.planning.simulate import ArrivalKind, Forwards, replay
from interlace.bench.result import command_of, write_result
from interlace.config import EngineConfig, Policy
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.outcome import Outcome
from interlace.engine.loop import EngineCore
from interlace.engine.pipeline.ambient import Ambient
from interlace.engine.policy.cost import CostModel
from interlace.engine.policy.pending import DENOISE, ENCODE, stage_of
from interlace.engine.ticket import Ticket, wave_key
from interlace.errors import EngineClosedError, InvalidRequestError
from interlace.models.loader import LoadedModel, load_model

Requests = list[dict[str, Any]]
Curves = dict[str, dict[int, float]]  # seconds by shape and rows
_START = "request start"  # stands for what a request costs before its first call and after its last
_FEW, _MORE = 2, 6  # steps of the runs that tell costs by request from costs by call
_REPEATS = 5
_MAX_ROWS = 8  # of the forwards that are measured first
_CLOCKS: dict[str, Callable[[], float]] = {"wall": perf_counter, "cpu": process_time}


def check(
    *,
    model_name: str = "demo",
    workload: str = "mixed",
    num_requests: int = 32,
    load: float = 0.7,
    policy: Policy = "fifo",
    max_num_seqs: int = 16,
    seed: int = 0,
    clock: str = "wall",
    output: Path | None = None,
) -> None:
    """Predicted and measured p50 and p95 of `num_requests` arrivals at `load` of what a full queue would get through.

    `clock` is "wall", or "cpu": this process's own time, in which other programs' work on the machine does not count.
    Prints a summary on stderr and one JSON object on stdout.
    """
    command = command_of("simulate", {"check": True, **locals()})
    if num_requests < 2 or load <= 0:
        raise InvalidRequestError(f"got {num_requests} requests at load {load}; expected at least 2, a load above 0")
    if clock not in _CLOCKS:
        raise InvalidRequestError(f"clock is {clock!r}; expected wall or cpu", "clock")
    model = load_model(model_name)
    if clock == "cpu":
        if model.pipeline.device.type != "cpu":
            raise InvalidRequestError("the cpu clock is for models on the CPU; take wall", "clock")
        torch.set_num_threads(1)  # the time of several threads would be added up
    model.pipeline.set_progress_bar_config(disable=True)
    config = EngineConfig(max_num_seqs=max_num_seqs, policy=policy)
    requests = make_requests(model, workload, num_requests, seed)
    kinds, calls = _kinds(model, requests)
    now = _CLOCKS[clock]
    curves: Curves = {call.shape: measured(call, _MAX_ROWS, _REPEATS, statistics.median, now).seconds for call in calls}
    timed = _Timed(model, config, cost_of(curves), now)
    try:
        start_s, call_s = timed.overheads(lambda: make_requests(model, workload, max(num_requests // 2, 1), seed))
        known = with_overheads(curves, start_s, call_s)
        rate = load * num_requests / _makespan(kinds, known, config)
        arrivals = list(zip(poisson_times(random.Random(seed), num_requests, rate), kinds, strict=True))
        latencies, seen = timed.run(make_requests(model, workload, num_requests, seed), [at for at, _ in arrivals])
    finally:
        timed.core.close(EngineClosedError("checked"))
    own = with_overheads({**curves, **seen}, start_s, call_s)
    result = {
        "command": command, "workload": workload, "num_requests": num_requests, "load": load,
        "rate_per_s": round(rate, 4), "policy": policy, "clock": clock, **describe_model(model),
        "request_ms": round(1000 * start_s, 3), "call_ms": round(1000 * call_s, 4),
        "measured": _figures(latencies),
        "predicted": _compared(replay(arrivals, cost_of(known), config), latencies),
        "predicted_from_own_forwards": _compared(replay(arrivals, cost_of(own), config), latencies),
        "forwards_against_profile": _drift(curves, seen),
    }  # fmt: skip
    _say(result)
    write_result(result, output)


def cost_of(curves: Mapping[str, Mapping[int, float]]) -> CostModel:
    """A cost model that knows these curves and tries nothing out."""
    cost = _FixedCosts(settled=True)
    for shape, seconds in curves.items():
        for rows, value in seconds.items():
            cost.know(shape, rows, value)
    return cost


def with_overheads(curves: Curves, start_s: float, call_s: float) -> Curves:
    """Forwards with what Python takes by call, and one more "forward" by request for what it takes before and after."""
    known = {shape: {rows: s + rows * call_s for rows, s in seconds.items()} for shape, seconds in curves.items()}
    return known | {_START: {1: start_s}}


def _kinds(model: LoadedModel, requests: Requests) -> tuple[list[ArrivalKind], list[ModuleCall]]:
    """What each request will run, from one short run of each sort, and a call of every shape."""
    sorts: dict[Hashable, list[ModuleCall]] = {}
    kinds, shapes = [], dict[str, ModuleCall]()
    for kwargs in requests:
        steps = int(kwargs["num_inference_steps"])
        short = kwargs | {"num_inference_steps": _FEW}
        key = wave_key({name: value for name, value in short.items() if name not in ("generator", "true_cfg_scale")})
        if key not in sorts:
            sorts[key] = calls_of(model.pipeline, short | {"generator": torch.Generator().manual_seed(0)})
            shapes |= {call.shape: call for call in sorts[key]}
        kinds.append(ArrivalKind(str(key), (Forwards(_START, ENCODE, 1), *_forwards(sorts[key], steps)), steps))
    return kinds, list(shapes.values())


def _forwards(calls: Sequence[ModuleCall], steps: int) -> list[Forwards]:
    found = []
    for (shape, stage, rows), equal in groupby(
        (call.shape, stage_of(call.target.component, call.target.method), call.rows) for call in calls
    ):
        count = len(list(equal))
        found.append(Forwards(shape, stage, round(count * steps / _FEW) if stage == DENOISE else count, rows))
    return found


class _FixedCosts(CostModel):
    """Learns nothing while it is used, so that the engine plans with what the simulator is told."""

    def wanted(self, shape: str, rows: int, *, free: bool = False) -> bool:
        return False


class _Timed:
    """An engine in this thread, and what its forwards take on `clock`."""

    def __init__(self, model: LoadedModel, config: EngineConfig, cost: CostModel, clock: Callable[[], float]) -> None:
        self.core = EngineCore(model.pipeline, config, cost)
        self.clock = clock
        self.took: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._run = self.core.executor.run
        self.core.executor.run = self._recorded  # type: ignore[method-assign]

    def _recorded(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient]) -> list[Outcome]:
        start = self.clock()
        outcomes = self._run(calls, ambients)
        self.took[self.core.executor.shape(calls[0]), sum(call.rows for call in calls)].append(self.clock() - start)
        return outcomes

    def _add(self, kwargs: dict[str, Any]) -> Ticket:
        ticket = Ticket(f"check-{id(kwargs)}", kwargs, Ambient(0), Future())
        self.core.add([ticket])
        return ticket

    @torch.no_grad()
    def overheads(self, requests: Callable[[], Requests]) -> tuple[float, float]:
        """Seconds by request and by call that are not forwards: from two runs with few and with more steps."""
        figures = []
        for steps in (_FEW, _FEW, _MORE):  # the first learns and verifies
            self.took.clear()
            tickets = [self._add({**kwargs, "num_inference_steps": steps}) for kwargs in requests()]
            start = self.clock()
            while self.core.step() is not None:
                pass
            seconds = self.clock() - start - sum(map(sum, self.took.values()))
            figures.append((seconds, sum(ticket.metrics.num_forwards for ticket in tickets), len(tickets)))
        (low, few_calls, count), (high, more_calls, _) = figures[1:]
        by_call = max((high - low) / (more_calls - few_calls), 0.0)
        return max((low - few_calls * by_call) / count, 0.0), by_call

    @torch.no_grad()
    def run(self, requests: Requests, arrivals: Sequence[float]) -> tuple[list[float], Curves]:
        """Latencies on the clock, and the mean seconds of the forwards by shape and rows."""
        self.took.clear()
        skipped, coming, ended = -self.clock(), 0, [0.0] * len(requests)

        def end(index: int) -> Callable[[Any], None]:
            return lambda _: ended.__setitem__(index, self.clock() + skipped)

        tickets: list[Ticket] = []
        while coming < len(arrivals) or self.core.tickets:
            while coming < len(arrivals) and self.clock() + skipped >= arrivals[coming]:
                tickets.append(self._add(requests[coming]))
                tickets[-1].future.add_done_callback(end(coming))
                coming += 1
            if self.core.step() is None and coming < len(arrivals):
                skipped += max(arrivals[coming] - self.clock() - skipped, 0.0)  # nothing to do: on to the next arrival
        for ticket in tickets:
            ticket.future.result()
        curves: Curves = {}
        for (shape, rows), seconds in self.took.items():
            if shape:
                curves.setdefault(shape, {})[rows] = statistics.mean(seconds)
        return [end - at for end, at in zip(ended, arrivals, strict=True)], curves


def _makespan(kinds: Sequence[ArrivalKind], curves: Curves, config: EngineConfig) -> float:
    """Predicted seconds for all of them when all are there from the start."""
    return max(replay([(0.0, kind) for kind in kinds], cost_of(curves), config))


def _figures(latencies: Sequence[float]) -> dict[str, float]:
    return {"mean_s": round(statistics.mean(latencies), 4)} | {
        f"p{q}_s": round(percentile(latencies, q), 4) for q in (50, 95)
    }


def _compared(predicted: Sequence[float], real: Sequence[float]) -> dict[str, float]:
    """The figures and their relative errors; below 0: the run was slower than predicted."""
    figures, truth = _figures(predicted), _figures(real)
    errors = {f"{name.removesuffix('_s')}_error": round(figures[name] / truth[name] - 1, 4) for name in figures}
    return figures | errors


def _drift(curves: Curves, seen: Curves) -> float | None:
    """How much longer the run's own forwards took than those of the profile, in the median over row counts."""
    ratios = [s / curves[shape][n] for shape, known in seen.items() for n, s in known.items() if n in curves[shape]]
    return round(statistics.median(ratios), 3) if ratios else None


def _say(result: Mapping[str, Any]) -> None:
    real = result["measured"]
    lines = [f"measured: p50 {real['p50_s']} s, p95 {real['p95_s']} s"]
    for name in ("predicted", "predicted_from_own_forwards"):
        one = result[name]
        words = name.replace("_", " ")
        lines.append(
            f"{words}: p50 {one['p50_s']} s ({one['p50_error']:+.0%}), p95 {one['p95_s']} s ({one['p95_error']:+.0%})"
        )
    lines.append(f"the run's forwards took {result['forwards_against_profile']} times as long as the profile's")
    sys.stderr.write("\n".join(lines) + "\n")
