"""`interlace bench latency`: requests arrive at random; how long each way of running them lets them wait."""

import random
import statistics
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.console import Console
from rich.table import Table

from interlace.bench.arrivals import poisson_times
from interlace.bench.machine import describe_model
from interlace.bench.percentiles import percentile
from interlace.bench.pictures import drawn
from interlace.bench.result import command_of, write_result
from interlace.bench.workloads import make_requests
from interlace.config import EngineConfig
from interlace.engine.thread import Engine
from interlace.errors import InvalidRequestError
from interlace.models.loader import LoadedModel, load_model

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
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Poisson arrivals at shares (`loads`) of Interlace's own capacity, the same arrivals for every way.

    `slo` is the allowed latency as a multiple of the request's own time alone. Prints a table on stderr and one JSON
    object on stdout. Raises `InvalidRequestError` for values that make no sense.
    """
    command = command_of("latency", locals())
    if num_requests < 2 or not loads or min(loads) <= 0:
        raise InvalidRequestError(f"got {num_requests} requests, loads {loads}; expected at least 2, all above 0")
    model = load_model(model_name)
    model.pipeline.set_progress_bar_config(disable=True)
    config = EngineConfig(max_num_seqs=max_num_seqs, policy=policy)  # type: ignore[arg-type]
    solo, capacity = _solo_and_capacity(model, workload, num_requests, seed, config)
    result: dict[str, Any] = {
        "command": command, "workload": workload, "num_requests": num_requests, "slo": slo, "policy": policy,
        **describe_model(model),
        "solo_s": round(statistics.mean(solo), 4), "capacity_per_s": round(capacity, 4), "loads": {},
    }  # fmt: skip
    for load in loads:
        arrivals = poisson_times(random.Random(seed), num_requests, load * capacity)
        ways = {}
        for name, open_way in _ways(model, config).items():
            submit, close = open_way()
            try:
                _replay(submit, make_requests(model, workload, min(num_requests, 6), seed + 1), [0.0] * 6)  # warm
                ways[name] = _figures(_replay(submit, make_requests(model, workload, num_requests, seed), arrivals),
                                      solo, slo)  # fmt: skip
            finally:
                close()
            sys.stderr.write(f"load {load:.2f} {name}: p95 {ways[name]['p95_s']:.2f} s\n")
        result["loads"][str(load)] = ways
    result["goodput_per_s"] = {
        name: max((f[name]["rate_per_s"] for f in result["loads"].values() if f[name]["attained"] >= 0.9), default=0.0)
        for name in _ways(model, config)
    }
    _print_table(result)
    if plot is not None:
        _plot(result, plot)
    write_result(result, output)


def _solo_and_capacity(
    model: LoadedModel, workload: str, count: int, seed: int, config: EngineConfig
) -> tuple[list[float], float]:
    """Each request's seconds alone on the stock pipeline, and Interlace's requests a second when all are there."""
    model.pipeline(**make_requests(model, workload, 1, seed)[0])
    solo = []
    for kwargs in make_requests(model, workload, count, seed):
        start = monotonic()
        model.pipeline(**kwargs)
        solo.append(monotonic() - start)
    with Engine(model.pipeline, config) as engine:
        drawn(engine, make_requests(model, workload, min(count, 8), seed + 1))
        start = monotonic()
        drawn(engine, make_requests(model, workload, count, seed))
        return solo, count / (monotonic() - start)


def _ways(model: LoadedModel, config: EngineConfig) -> dict[str, Callable[[], tuple[Submit, Callable[[], None]]]]:
    def engine(**options: Any) -> tuple[Submit, Callable[[], None]]:
        opened = Engine(model.pipeline, max_num_seqs=config.max_num_seqs, **options)
        return opened.submit, opened.close

    return {
        "interlace": lambda: engine(policy=config.policy),
        "request": lambda: engine(step_execution=False, request_batch_max_wait_ms=_WAVE_WAIT_MS),
        "sequential": lambda: _one_by_one(model),
    }


def _one_by_one(model: LoadedModel) -> tuple[Submit, Callable[[], None]]:
    """The stock pipeline behind a lock: whoever comes first."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    return lambda kwargs: pool.submit(model.pipeline, **kwargs), pool.shutdown


def _replay(submit: Submit, requests: list[dict[str, Any]], arrivals: list[float]) -> tuple[list[float], float]:
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
