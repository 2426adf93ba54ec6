"""`interlace bench throughput`: the same requests run by stock diffusers, as waves, and by Interlace, in one run."""

import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench.machine import describe_model
from interlace.bench.pictures import Images, drawn
from interlace.bench.result import command_of, write_result
from interlace.bench.workloads import make_requests
from interlace.engine.thread import Engine
from interlace.errors import InvalidRequestError
from interlace.models.loader import LoadedModel, load_model

Requests = list[dict[str, Any]]
_PER_REQUEST = frozenset({"prompt", "negative_prompt", "generator"})


def throughput(
    *,
    model_name: str = "demo",
    workload: str = "mixed",
    num_requests: int = 16,
    repeats: int = 1,
    max_num_seqs: int = 16,
    seed: int = 0,
    torch_dtype: str | None = None,
    device: str | None = None,
    output: Path | None = None,
) -> None:
    """Measure four ways of running the same requests; prints a table on stderr and one JSON object on stdout."""
    command = command_of("throughput", locals())
    for name, value in (("num_requests", num_requests), ("repeats", repeats), ("max_num_seqs", max_num_seqs)):
        if value < 1:
            raise InvalidRequestError(f"{name} is {value}; expected at least 1", name)
    if workload == "edit" and model_name == "demo":
        model_name = "demo-edit"
    model = load_model(model_name, dtype=torch_dtype, device=device)
    result = measure(model, workload, num_requests=num_requests, repeats=repeats, max_num_seqs=max_num_seqs, seed=seed)
    _print_table(result)
    write_result({"command": command, **result}, output)


def measure(
    model: LoadedModel, workload: str, *, num_requests: int, repeats: int, max_num_seqs: int, seed: int
) -> dict[str, Any]:
    """Seconds of each way (medians over `repeats`, each after an unmeasured warm-up), ratios, and the exactness."""
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)

    def requests() -> Requests:
        return make_requests(model, workload, num_requests, seed)

    with (
        Engine(pipeline, max_num_seqs=max_num_seqs, step_execution=False, request_batch_max_wait_ms=5) as waves,
        Engine(pipeline, max_num_seqs=max_num_seqs) as engine,
    ):
        ways: dict[str, Callable[[Requests], Images]] = {
            "sequential": lambda batch: [image for kwargs in batch for image in pipeline(**kwargs).images],
            "static": lambda batch: _static(pipeline, batch, max_num_seqs),
            "request": lambda batch: drawn(waves, batch),
            "interlace": lambda batch: drawn(engine, batch),
        }
        for way in ways.values():  # learns and verifies, so that the measured runs are the steady state
            way([{**kwargs, "num_inference_steps": 3} for kwargs in requests()])
        rounds = [_round(ways, requests, engine) for _ in range(repeats)]
    seconds = {name: [one.seconds[name] for one in rounds] for name in ways}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "workload": workload,
        "num_requests": num_requests,
        "repeats": repeats,
        "max_num_seqs": max_num_seqs,
        **describe_model(model),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "requests_per_second": round(num_requests / medians["interlace"], 3),
        **{f"ratio_vs_{name}": _paired_ratio(seconds, name) for name in ("sequential", "static", "request")},
        "max_abs_diff": max(one.difference for one in rounds),
        "forwards": rounds[-1].forwards,
        "forward_fraction": round(statistics.median(one.in_forwards for one in rounds), 4),
        "engine_overhead_fraction": round(statistics.median(one.overhead for one in rounds), 4),
    }


@dataclass(frozen=True)
class _Round:
    """Every way once: its seconds; of Interlace also the largest difference, how much of its time forwards took and the
    engine itself (the rest is the pipelines' own Python), and the forwards."""

    seconds: dict[str, float]
    difference: float
    in_forwards: float
    overhead: float
    forwards: dict[str, int]


def _round(ways: dict[str, Callable[[Requests], Images]], requests: Callable[[], Requests], engine: Engine) -> _Round:
    seconds, images, before = {}, {}, engine.stats()
    for name, way in ways.items():
        batch = requests()
        start = perf_counter()
        images[name] = way(batch)
        seconds[name] = perf_counter() - start
    after = engine.stats()
    pairs = zip(images["sequential"], images["interlace"], strict=True)
    shares = {k: (after["seconds"][k] - before["seconds"][k]) / seconds["interlace"] for k in ("forward", "engine")}
    return _Round(
        seconds=seconds,
        difference=max(float(np.abs(a - b).max()) for a, b in pairs),
        in_forwards=shares["forward"],
        overhead=shares["engine"],
        forwards={name: n - before["forwards"].get(name, 0) for name, n in after["forwards"].items()},
    )


def _paired_ratio(seconds: dict[str, list[float]], name: str) -> float:
    """How many times faster Interlace was: the median over the repeats of that repeat's own ratio."""
    return round(statistics.median(a / b for a, b in zip(seconds[name], seconds["interlace"], strict=True)), 3)


def _static(pipeline: Any, batch: Requests, max_batch: int) -> Images:
    """Stock diffusers on lists of prompts: requests with equal parameters, as many as fit, in one call."""
    groups: dict[Any, list[int]] = {}
    for index, kwargs in enumerate(batch):
        key = {name: value for name, value in kwargs.items() if name not in _PER_REQUEST}
        if "image" in key:
            key["image"] = id(key["image"])  # stock pipelines take one picture a call
        key["negative_prompt"] = kwargs.get("negative_prompt") is not None
        groups.setdefault(tuple(sorted(key.items(), key=lambda item: item[0])), []).append(index)
    images: dict[int, np.ndarray[Any, Any]] = {}
    for indices in groups.values():
        for start in range(0, len(indices), max_batch):
            chunk = indices[start : start + max_batch]
            images |= dict(zip(chunk, _one_static(pipeline, [batch[i] for i in chunk]), strict=True))
    return [images[i] for i in range(len(batch))]


def _one_static(pipeline: Any, chunk: Requests) -> Iterable[np.ndarray[Any, Any]]:
    joined = dict(chunk[0])
    for name in _PER_REQUEST & joined.keys():
        values = [kwargs[name] for kwargs in chunk]
        joined[name] = None if values[0] is None else values
    images: Iterable[np.ndarray[Any, Any]] = pipeline(**joined).images
    return images


def _print_table(result: dict[str, Any]) -> None:
    where = f"{result['model']}, {result['device']}, {result['dtype']}"
    title = f"{result['workload']}: {result['num_requests']} requests, {where}"
    table = Table("way", "seconds", "requests/s", "Interlace is", title=title)
    labels = {"sequential": "stock, one by one", "static": "stock, static batches", "request": "request waves",
              "interlace": "Interlace"}  # fmt: skip
    for name, label in labels.items():
        seconds, ratio = result["seconds"][name], result.get(f"ratio_vs_{name}")
        rate = result["num_requests"] / seconds
        table.add_row(label, f"{seconds:.2f}", f"{rate:.2f}", f"{ratio:.2f}x as fast" if ratio else "")
    console = Console(file=sys.stderr)
    console.print(table)
    console.print(
        f"largest difference to stock one by one: {result['max_abs_diff']:.1e}; "
        f"time in forwards: {result['forward_fraction']:.1%}, engine's own: {result['engine_overhead_fraction']:.1%}"
    )
