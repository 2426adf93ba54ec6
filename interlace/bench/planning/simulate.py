"""`interlace bench simulate`: the engine's own scheduler and cost model over arrivals that never happened. No torch.

What forwards cost comes from a file of `interlace bench batch-curve`. For planning: how many requests a replica serves
within a latency, and how many replicas a load needs.
"""

import heapq
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from interlace.bench.load.percentiles import percentile
from interlace.bench.machine import describe_machine
from interlace.bench.planning.published import HARDWARE, PUBLISHED
from interlace.bench.result import command_of, write_result
from interlace.config import EngineConfig, Policy
from interlace.engine.policy.cost import CostModel
from interlace.engine.policy.pending import DECODE, DENOISE, ENCODE, Pending
from interlace.engine.policy.scheduler import Scheduler
from interlace.errors import InvalidRequestError

_PROBE = 4000  # requests with which one rate is tried when a fleet is planned
_SWITCH_AFTER = 4  # forwards after which a policy that looks at remaining work is asked again


class Forwards(NamedTuple):
    """Equal calls of one request, one after the other."""

    shape: str
    stage: int
    times: int
    rows: int = 1


@dataclass(frozen=True)
class ArrivalKind:
    """One sort of request: the shapes of its forwards, in order, with how often each runs."""

    name: str
    forwards: tuple[Forwards, ...]
    steps: int

    def solo_s(self, cost: CostModel) -> float:
        """Seconds alone."""
        return sum((cost.seconds(one.shape, one.rows) or 0.0) * one.times for one in self.forwards)


@dataclass(slots=True)
class _SimulatedJob:
    number: int
    kind: ArrivalKind
    arrival: float
    at: int = 0  # in kind.forwards
    left: int = 0  # of the forwards there

    def pending(self, cost: CostModel, slo: float) -> Pending:
        shape, stage, _, rows = self.kind.forwards[self.at]
        rest = self.kind.forwards[self.at + 1 :]
        remaining = (cost.seconds(shape, rows) or 0.0) * self.left
        remaining += sum((cost.seconds(one.shape, one.rows) or 0.0) * one.times for one in rest)
        deadline = self.arrival + slo * self.kind.solo_s(cost)
        return Pending(
            str(self.number), shape.split(" ")[0], shape, stage, rows, rows, self.number, 0, shape, remaining,
            self.arrival, deadline,
        )  # fmt: skip


def replay(
    arrivals: Sequence[tuple[float, ArrivalKind]], cost: CostModel, config: EngineConfig, slo: float = 3.0
) -> list[float]:
    """Seconds from arrival to end of each request, in their order, on one replica.

    Equal forwards in a row are taken together until somebody arrives or ends, not one at a time.
    """
    scheduler = Scheduler(config, cost)
    now, latencies = 0.0, [0.0] * len(arrivals)
    queue: list[tuple[float, int, _SimulatedJob]] = []
    running: dict[str, _SimulatedJob] = {}
    pending: dict[str, Pending] = {}
    coming = 0
    while coming < len(arrivals) or queue or running:
        if not running and not queue:
            now = max(now, arrivals[coming][0])
        while coming < len(arrivals) and arrivals[coming][0] <= now:
            job = _SimulatedJob(
                coming, arrivals[coming][1], arrivals[coming][0], left=arrivals[coming][1].forwards[0].times
            )
            rank = job.kind.solo_s(cost) + 0.5 * job.arrival if config.policy == "sjf" else job.arrival
            heapq.heappush(queue, (rank, coming, job))
            coming += 1
        while queue and len(running) < config.max_num_seqs:
            job = heapq.heappop(queue)[2]
            running[str(job.number)] = job
            pending[str(job.number)] = job.pending(cost, slo)
        group = [running[p.request_id] for p in scheduler.next_forward(pending.values(), {}, now)]
        shape = group[0].kind.forwards[group[0].at].shape
        seconds = cost.seconds(shape, sum(job.kind.forwards[job.at].rows for job in group)) or 0.0
        times = min(job.left for job in group)
        if coming < len(arrivals) and len(running) < config.max_num_seqs and seconds > 0:
            times = min(times, max(math.ceil((arrivals[coming][0] - now) / seconds), 1))
        if config.policy != "fifo":
            times = min(times, _SWITCH_AFTER)
        now += seconds * times
        for job in group:
            name = str(job.number)
            job.left -= times
            if job.left == 0:
                job.at += 1
                if job.at == len(job.kind.forwards):
                    latencies[job.number] = now - job.arrival
                    del running[name], pending[name]
                    scheduler.forget(name)
                    continue
                job.left = job.kind.forwards[job.at].times
            pending[name] = job.pending(cost, slo)
    return latencies


def read_curves(path: Path) -> CostModel:
    """The costs in a JSON line of `interlace bench batch-curve`. Raises `InvalidRequestError` for another file."""
    cost = CostModel(settled=True)
    try:
        curves = json.loads(path.read_text(encoding="utf-8").strip().splitlines()[-1])["curves"]
        for shape, curve in curves.items():
            for rows, ms in curve["ms"].items():
                cost.know(shape, int(rows), float(ms) / 1000)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidRequestError(
            f"{path} holds no batch curves ({error}); make it with batch-curve", "curves"
        ) from error
    return cost


def _measured_on(curves: Path) -> str | None:
    """The hardware that the file names; None for one that names none."""
    found = json.loads(curves.read_text(encoding="utf-8").strip().splitlines()[-1])
    return "; ".join(str(found[name]) for name in ("device", "machine") if name in found) or None


def kinds_of(cost: CostModel, steps: Sequence[int], calls_per_step: int) -> list[ArrivalKind]:
    """A kind for each size that was measured and each number of steps; every other shape runs once a request."""
    shapes = list(cost.describe())
    shapes.sort(key=lambda shape: cost.seconds(shape) or 0.0)  # sizes in the same order for denoiser and decoder
    denoise = [shape for shape in shapes if shape.startswith(("transformer ", "unet ", "prior "))]
    decode = [shape for shape in shapes if shape.startswith("vae.decode")]
    encode = [shape for shape in shapes if shape not in denoise and shape not in decode]
    if not denoise:
        raise InvalidRequestError(f"no denoiser among {', '.join(shapes)}; expected a transformer or unet", "curves")
    return [
        ArrivalKind(
            f"{shape.split(': ')[-1].split(',')[0]}/{count}",
            (
                *(Forwards(s, ENCODE, calls_per_step) for s in encode),
                Forwards(shape, DENOISE, count * calls_per_step),
                *(Forwards(s, DECODE, 1) for s in decode[index : index + 1]),
            ),
            count,
        )
        for index, shape in enumerate(denoise)
        for count in steps
    ]


def simulate(
    *,
    curves: Path | None = None,
    profile: str | None = None,
    rate: float,
    num_requests: int = 10_000,
    steps: tuple[int, ...] = (28,),
    calls_per_step: int = 1,
    slo: float = 3.0,
    attainment: float = 0.9,
    policy: Policy = "fifo",
    max_num_seqs: int = 16,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """One replica under Poisson arrivals, the most that it serves within `slo` times the time alone, and a fleet.

    Prints a summary on stderr and one JSON object on stdout.
    """
    command = command_of("simulate", locals())
    if rate <= 0 or num_requests < 1 or not 0 < attainment <= 1 or calls_per_step < 1 or min(steps, default=0) < 1:
        raise InvalidRequestError("expected a rate above 0, at least one request and step, attainment above 0, up to 1")
    cost = _costs(curves, profile)
    kinds = kinds_of(cost, steps, calls_per_step)
    config = EngineConfig(max_num_seqs=max_num_seqs, policy=policy)
    start = perf_counter()
    arrivals = poisson(kinds, rate, num_requests, seed)
    latencies = replay(arrivals, cost, config, slo)
    taken = perf_counter() - start
    capacity = _capacity(kinds, cost, config, slo, attainment, seed)
    result = {
        "command": command, **describe_machine(),
        "costs": str(curves or PUBLISHED[str(profile)].source),
        "costs_measured_on": HARDWARE if curves is None else _measured_on(curves), "rate_per_s": rate,
        "num_requests": num_requests, "policy": policy, "slo": slo, "attainment": attainment,
        "kinds": {kind.name: round(kind.solo_s(cost), 4) for kind in kinds},
        **{f"p{q}_s": round(percentile(latencies, q), 4) for q in (50, 95, 99)},
        "attained": round(_attained(arrivals, latencies, cost, slo), 4),
        "replica_per_s": round(capacity, 4),
        "replicas": math.ceil(rate / capacity) if capacity else None,
        "simulated_s": round(arrivals[-1][0] + latencies[-1], 1), "took_s": round(taken, 2),
    }  # fmt: skip
    sys.stderr.write(
        f"{num_requests} requests at {rate:g} a second on one replica: p50 {result['p50_s']} s, "
        f"p95 {result['p95_s']} s, "
        f"{result['attained']:.0%} within {slo:g}x their time alone\n"
        f"one replica serves {capacity:.3g} a second with {attainment:.0%} in time; {rate:g} a second need "
        f"{result['replicas']} of them\n"
    )
    write_result(result, output)


def _costs(curves: Path | None, profile: str | None) -> CostModel:
    if (curves is None) == (profile is None) or profile not in (None, *PUBLISHED):
        raise InvalidRequestError(
            f"got curves {curves}, profile {profile}; expected a file of batch-curve, or one of {', '.join(PUBLISHED)}",
            "curves",
        )
    return read_curves(curves) if curves is not None else PUBLISHED[str(profile)].cost()


def poisson(kinds: Sequence[ArrivalKind], rate: float, count: int, seed: int) -> list[tuple[float, ArrivalKind]]:
    """Arrivals at random, each of a random kind."""
    rng, now, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        arrivals.append((now, rng.choice(kinds)))
    return arrivals


def _attained(
    arrivals: Sequence[tuple[float, ArrivalKind]], latencies: Sequence[float], cost: CostModel, slo: float
) -> float:
    met = sum(s <= slo * kind.solo_s(cost) for (_, kind), s in zip(arrivals, latencies, strict=True))
    return met / len(latencies)


def _capacity(
    kinds: Sequence[ArrivalKind], cost: CostModel, config: EngineConfig, slo: float, attainment: float, seed: int
) -> float:
    """The highest rate at which enough requests are in time, to two per cent, by bisection."""

    def holds(rate: float) -> bool:
        arrivals = poisson(kinds, rate, _PROBE, seed)
        return _attained(arrivals, replay(arrivals, cost, config, slo), cost, slo) >= attainment

    low, high = 0.0, 1 / min(kind.solo_s(cost) for kind in kinds)
    while holds(high):
        low, high = high, 2 * high
    while high - low > 0.02 * high and high > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
