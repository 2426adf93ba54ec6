"""`interlace bench throughput`: the same requests run by stock diffusers, as waves, and by Interlace, in turn."""

import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench import sides
from interlace.bench.load.adapters import LoraLoad, measure_adapters, print_adapters
from interlace.bench.load.pictures import Images, drawn
from interlace.bench.load.workloads import make_requests
from interlace.bench.machine import describe_model
from interlace.bench.result import command_of, write_result
from interlace.engine.engine import Engine
from interlace.engine.statistics import EngineStatistics
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from interlace.models.optimize import AUTO, Optimizations

Requests = list[dict[str, Any]]
_PER_REQUEST = frozenset({"prompt", "negative_prompt", "generator"})


def throughput(
    *,
    model_name: str = "demo",
    workload: str = "mixed",
    num_requests: int = 16,
    repeats: int = 3,
    max_num_seqs: int = 16,
    seed: int = 0,
    torch_dtype: str | None = None,
    device: str | None = None,
    optimize: Literal["auto", "off"] = "auto",
    output: Path | None = None,
) -> None:
    """Four ways of running the same requests (of the workload lora three), each in a process of its own, in turn.

    The engines' model is loaded as `t2i` and `serve` load it, or with `optimize` off as stock's is: what is gained then
    comes from sharing alone. Prints a table on stderr and one JSON object on stdout.
    """
    command = command_of("throughput", locals())
    for name, value in (("num_requests", num_requests), ("repeats", repeats), ("max_num_seqs", max_num_seqs)):
        if value < 1:
            raise InvalidRequestError(f"{name} is {value}; expected at least 1", name)
    if workload == "edit" and model_name == "demo":
        model_name = "demo-edit"
    own = AUTO if optimize == "auto" else Optimizations()
    if workload == "lora":
        adapters = LoraLoad(model_name, torch_dtype, device, num_requests, max_num_seqs, seed, own)
        result = measure_adapters(adapters, repeats)
        print_adapters(result)
        write_result({"command": command, **result}, output)
        return
    load = ThroughputLoad(model_name, torch_dtype, device, workload, num_requests, max_num_seqs, seed, own)
    result = measure(load, repeats)
    _print_table(result)
    write_result({"command": command, **result}, output)


def measure(load: "ThroughputLoad", repeats: int) -> dict[str, Any]:
    """Seconds of each way (medians over `repeats`, each after an unmeasured warm-up), ratios, and the exactness."""
    with sides.opened({name: partial(ThroughputWay, name, load) for name in WAYS}) as ways:
        turns: dict[str, list[ThroughputTurn]] = sides.in_turn(ways, repeats)
    seconds = {name: [turn.seconds for turn in told] for name, told in turns.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = turns["interlace"]
    return {
        "workload": load.workload,
        "num_requests": load.num_requests,
        "repeats": repeats,
        "max_num_seqs": load.max_num_seqs,
        **ours[-1].facts,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "every_second": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "requests_per_second": round(load.num_requests / medians["interlace"], 3),
        **{
            f"ratio_vs_{name}": sides.paired_ratio(seconds[name], seconds["interlace"])
            for name in ("sequential", "static", "request")
        },
        "max_abs_diff": max(_difference(a, b) for a, b in zip(turns["sequential"], ours, strict=True)),
        "forwards": ours[-1].forwards,
        "forward_fraction": round(statistics.median(turn.in_forwards for turn in ours), 4),
        "engine_overhead_fraction": round(statistics.median(turn.overhead for turn in ours), 4),
    }


@dataclass(frozen=True)
class ThroughputLoad:
    """What every way gets: the model, and the requests. `optimizations`: what the engines' ways have beside stock's."""

    model_name: str
    dtype: str | None
    device: str | None
    workload: str
    num_requests: int
    max_num_seqs: int
    seed: int
    optimizations: Optimizations


@dataclass(frozen=True)
class ThroughputTurn:
    """One way once. Of an engine also how much of the time forwards took and the engine itself (the rest is the
    pipelines' own Python), and the forwards."""

    seconds: float
    images: Images
    facts: dict[str, Any]
    in_forwards: float = 0.0
    overhead: float = 0.0
    forwards: dict[str, int] = field(default_factory=dict)


WAYS: dict[str, dict[str, Any] | None] = {  # options of an engine; None: the stock pipeline
    "sequential": None,
    "static": None,
    "request": {"step_execution": False, "request_batch_max_wait_ms": 5},
    "interlace": {},
}


class ThroughputWay:
    """One way to run the requests, open and warm; each call runs them all."""

    def __init__(self, name: str, load: ThroughputLoad) -> None:
        self._name, self._load = name, load
        options = WAYS[name]
        own = Optimizations() if options is None else load.optimizations
        self._model = load_model(load.model_name, dtype=load.dtype, device=load.device, optimizations=own)
        self._model.pipeline.set_progress_bar_config(disable=True)
        self._engine: Engine | None = None
        if options is not None:
            self._engine = Engine(self._model.pipeline, max_num_seqs=load.max_num_seqs, **options)
        self._run([{**kwargs, "num_inference_steps": 3} for kwargs in self._requests()])  # learns, verifies

    def __call__(self) -> ThroughputTurn:
        batch, before = self._requests(), self._engine.statistics() if self._engine else EngineStatistics()
        start = perf_counter()
        images = self._run(batch)
        seconds = perf_counter() - start
        facts = describe_model(self._model)
        if self._engine is None:
            return ThroughputTurn(seconds, images, facts)
        after = self._engine.statistics()
        forwards = {name: n - before.forwards.get(name, 0) for name, n in after.forwards.items()}
        in_forwards = (after.seconds.forward - before.seconds.forward) / seconds
        own = (after.seconds.engine - before.seconds.engine) / seconds
        return ThroughputTurn(seconds, images, facts, in_forwards, own, forwards)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _requests(self) -> Requests:
        return make_requests(self._model, self._load.workload, self._load.num_requests, self._load.seed)

    def _run(self, batch: Requests) -> Images:
        pipeline = self._model.pipeline
        if self._engine is not None:
            return drawn(self._engine, batch)
        if self._name == "static":
            return _static(pipeline, batch, self._load.max_num_seqs)
        return [image for kwargs in batch for image in pipeline(**kwargs).images]


def _difference(one: ThroughputTurn, other: ThroughputTurn) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one.images, other.images, strict=True))


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
