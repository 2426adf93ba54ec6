"""`interlace bench latency`: requests arrive at random; how long each way of running them lets them wait."""

import random
import statistics
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.console import Console
from rich.table import Table

from interlace.bench import sides
from interlace.bench.load.arrivals import poisson_times
from interlace.bench.load.percentiles import percentile
from interlace.bench.load.workloads import make_requests
from interlace.bench.machine import describe_model
from interlace.bench.result import command_of, write_result
from interlace.engine.engine import Engine
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from interlace.models.optimize import AUTO

_WAVE_WAIT_MS = 20.0
Submit = Callable[[dict[str, Any]], "Future[Any]"]


def latency(
    *,
    model_name: str = "demo",
    workload: str = "mixed",
    num_requests: int = 48,
    loads: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0),
    slo: float = 3.0,
    max_num_seqs: int = 16,
    policy: str = "fifo",
    seed: int = 0,
    repeats: int = 1,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Poisson arrivals at shares (`loads`) of Interlace's own capacity, the same arrivals for every way.
    Each way has a process of its own; of `repeats`, in turn, medians are told.

    `slo` is the allowed latency as a multiple of the request's own time alone. Prints a table on stderr and one JSON
    object on stdout. Raises `InvalidRequestError` for values that make no sense.
    """
    command = command_of("latency", locals())
    if repeats < 1 or num_requests < 2 or not loads or min(loads) <= 0:
        raise InvalidRequestError(f"got {num_requests} requests, loads {loads}; expected at least 2, all above 0")
    load = LatencyLoad(model_name, workload, num_requests, max_num_seqs, policy, seed)
    with sides.opened({name: partial(LatencyWay, name, load) for name in _NAMES}) as ways:
        solo, facts = ways["sequential"]("solo", num_requests), ways["sequential"]("facts")
        capacity = num_requests / sum(ways["interlace"]("all", num_requests))
        result: dict[str, Any] = {
            "command": command, "workload": workload, "num_requests": num_requests, "repeats": repeats, "slo": slo,
            "policy": policy, **facts, "solo_s": round(statistics.mean(solo), 4), "capacity_per_s": round(capacity, 4),
            "loads": {},
        }  # fmt: skip
        for share in loads:
            arrivals = poisson_times(random.Random(seed), num_requests, share * capacity)
            told = sides.in_turn(ways, repeats, "replay", num_requests, arrivals)
            result["loads"][str(share)] = {
                name: _median([_figures(replayed, solo, slo) for replayed in several]) for name, several in told.items()
            }
            for name, f in result["loads"][str(share)].items():
                sys.stderr.write(f"load {share:.2f} {name}: p95 {f['p95_s']:.2f} s\n")
    result["goodput_per_s"] = {
        name: max((f[name]["rate_per_s"] for f in result["loads"].values() if f[name]["attained"] >= 0.9), default=0.0)
        for name in _NAMES
    }
    _print_table(result)
    if plot is not None:
        _plot(result, plot)
    write_result(result, output)


@dataclass(frozen=True)
class LatencyLoad:
    """What every way gets: the model, and the requests."""

    model_name: str
    workload: str
    num_requests: int
    max_num_seqs: int
    policy: str
    seed: int


class LatencyWay:
    """One way to run requests, open and warm. A call says what is to be measured, and of how many requests."""

    def __init__(self, name: str, load: LatencyLoad) -> None:
        own = None if name == "sequential" else AUTO  # as t2i and serve load it
        self._load, self._model = load, load_model(load.model_name, optimizations=own)
        self._model.pipeline.set_progress_bar_config(disable=True)
        self._submit, self.close = self._open(name)
        self.__call__("all", min(load.num_requests, 8))

    def __call__(self, what: str, count: int = 0, arrivals: Sequence[float] = ()) -> Any:
        """The model's and machine's `facts`; seconds of each request alone (`solo`); of `all` at once; or a replay."""
        if what == "facts":
            return describe_model(self._model)
        requests = make_requests(self._model, self._load.workload, count, self._load.seed)
        if what == "solo":
            return [_replay(self._submit, [kwargs], [0.0])[1] for kwargs in requests]
        if what == "all":
            return [_replay(self._submit, requests, [0.0] * count)[1]]
        return _replay(self._submit, requests, arrivals)

    def _open(self, name: str) -> tuple[Submit, Callable[[], None]]:
        if name == "sequential":  # the stock pipeline behind a lock: whoever comes first
            pool = ThreadPoolExecutor(1)
            return lambda kwargs: pool.submit(self._model.pipeline, **kwargs), pool.shutdown
        waves = {"step_execution": False, "request_batch_max_wait_ms": _WAVE_WAIT_MS}
        options = waves if name == "request" else {"policy": self._load.policy}
        engine = Engine(self._model.pipeline, max_num_seqs=self._load.max_num_seqs, **options)
        return engine.submit, engine.close


def _replay(submit: Submit, requests: list[dict[str, Any]], arrivals: Sequence[float]) -> tuple[list[float], float]:
    """Latency of each request in seconds, and the whole span from the first arrival to the last end."""
    start, ended = monotonic(), [0.0] * len(requests)
    lock = threading.Lock()

    def end(index: int) -> Callable[[Any], None]:
        def note(_: Any) -> None:
            with lock:
                ended[index] = monotonic() - start

        return note

    futures = []
    for index, (kwargs, arrival) in enumerate(zip(requests, arrivals, strict=False)):
        sleep(max(start + arrival - monotonic(), 0.0))
        future = submit(kwargs)
        future.add_done_callback(end(index))
        futures.append(future)
    wait(futures)
    for future in futures:
        future.result()
    return [ended[i] - arrivals[i] for i in range(len(futures))], max(ended)


def _figures(replayed: tuple[list[float], float], solo: list[float], slo: float) -> dict[str, float]:
    latencies, span = replayed
    attained = sum(latency <= slo * alone for latency, alone in zip(latencies, solo, strict=True)) / len(latencies)
    return {
        "mean_s": round(statistics.mean(latencies), 4),
        **{f"p{q}_s": round(percentile(latencies, q), 4) for q in (50, 95, 99)},
        "attained": round(attained, 4),
        "rate_per_s": round(len(latencies) / span, 4),
    }


def _median(several: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in several), 4) for name in several[0]}


_NAMES = {"interlace": "Interlace", "request": "request waves", "sequential": "stock, one by one"}


def _print_table(result: dict[str, Any]) -> None:
    title = f"{result['workload']}: {result['num_requests']} Poisson arrivals, {result['model']}, {result['device']}"
    table = Table("load", "way", "p50 s", "p95 s", "p99 s", f"within {result['slo']:g}x solo", title=title)
    for load, ways in result["loads"].items():
        for name, f in ways.items():
            row = (f"{f['p50_s']:.2f}", f"{f['p95_s']:.2f}", f"{f['p99_s']:.2f}", f"{f['attained']:.0%}")
            table.add_row(load if name == "interlace" else "", _NAMES[name], *row)
    Console(file=sys.stderr).print(table)


def _plot(result: dict[str, Any], path: Path) -> None:
    from interlace.bench.plots import lines

    series = {
        label: [(float(load), ways[name]["p95_s"]) for load, ways in result["loads"].items()]
        for name, label in _NAMES.items()
    }
    lines(path, series, "load, as a share of Interlace's capacity", "p95 latency, seconds", log_y=True)
