"""`interlace bench throughput --workload lora`: four adapters, mixed in one forward, kept apart, and in stock."""

import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench import sides
from interlace.bench.load.pictures import Images
from interlace.bench.load.workloads import make_requests
from interlace.bench.machine import describe_model
from interlace.engine.engine import Engine
from interlace.errors import InvalidRequestError
from interlace.models.adapters.files import own_sources
from interlace.models.adapters.lora import load_lora, read_lora
from interlace.models.loader import load_model
from interlace.models.optimize import Optimizations

NUM_ADAPTERS = 4
# Options of an engine; None: the stock pipeline. "apart" batches at every step, but only equal adapters together.
LORA_WAYS: dict[str, dict[str, Any] | None] = {"sequential": None, "apart": {"mix_adapters": False}, "mixed": {}}
_LABELS = {
    "sequential": "stock, one by one with set_adapters",
    "apart": "adapters kept apart, switched",
    "mixed": "mixed in one forward",
}


@dataclass(frozen=True)
class LoraLoad:
    """What every way gets: the model, and the requests. `optimizations`: what the engines' ways have beside stock's."""

    model_name: str
    dtype: str | None
    device: str | None
    num_requests: int
    max_num_seqs: int
    seed: int
    optimizations: Optimizations


@dataclass(frozen=True)
class LoraTurn:
    """One way once."""

    seconds: float
    images: Images
    facts: dict[str, Any]
    forwards: dict[str, int] = field(default_factory=dict)
    unfused: dict[str, str] = field(default_factory=dict)


def measure_adapters(load: LoraLoad, repeats: int) -> dict[str, Any]:
    """Seconds of each way (medians over `repeats`, each after an unmeasured warm-up), ratios, and the exactness.

    Raises `InvalidRequestError` for a model that brings no adapters.
    """
    if not own_sources(load.model_name):
        raise InvalidRequestError(f"{load.model_name} brings no adapters; the workload lora is for demo", "workload")
    with sides.opened({name: partial(LoraWay, name, load) for name in LORA_WAYS}) as ways:
        turns: dict[str, list[LoraTurn]] = sides.in_turn(ways, repeats)
    seconds = {name: [turn.seconds for turn in told] for name, told in turns.items()}
    mixed = turns["mixed"]
    pairs = zip(turns["sequential"], mixed, strict=True)
    return {
        "workload": "lora",
        "num_requests": load.num_requests,
        "num_adapters": NUM_ADAPTERS,
        "repeats": repeats,
        "max_num_seqs": load.max_num_seqs,
        **mixed[-1].facts,
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "every_second": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        **{f"ratio_vs_{n}": sides.paired_ratio(seconds[n], seconds["mixed"]) for n in ("sequential", "apart")},
        "max_abs_diff": max(
            float(np.abs(a - b).max()) for one, other in pairs for a, b in zip(one.images, other.images, strict=True)
        ),
        "forwards": {name: turns[name][-1].forwards for name in ("apart", "mixed")},
        "unfused": mixed[-1].unfused,
    }


class LoraWay:
    """One way to run the requests, open and warm; each call runs them all."""

    def __init__(self, name: str, load: LoraLoad) -> None:
        self._load, options = load, LORA_WAYS[name]
        own = Optimizations() if options is None else load.optimizations
        self._model = load_model(load.model_name, dtype=load.dtype, device=load.device, optimizations=own)
        pipeline: Any = self._model.pipeline
        pipeline.set_progress_bar_config(disable=True)
        sources = [source.find() for source in own_sources(load.model_name).values()]
        self._names = [f"adapter{number}" for number in range(NUM_ADAPTERS)]
        for number, adapter in enumerate(self._names):
            load_lora(pipeline, read_lora(adapter, sources[number % len(sources)]))
        self._engine = None if options is None else Engine(pipeline, max_num_seqs=load.max_num_seqs, **options)
        self._run([{**kwargs, "num_inference_steps": 3} for kwargs in self._requests()])  # learns, verifies

    def __call__(self) -> LoraTurn:
        batch, before = self._requests(), self._forwards()
        start = perf_counter()
        images = self._run(batch)
        seconds = perf_counter() - start
        forwards = {name: count - before.get(name, 0) for name, count in self._forwards().items()}
        unfused = {} if self._engine is None else self._engine.stats()["unfused"]
        return LoraTurn(seconds, images, describe_model(self._model), forwards, unfused)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _forwards(self) -> dict[str, int]:
        return {} if self._engine is None else dict(self._engine.stats()["forwards"])

    def _requests(self) -> list[dict[str, Any]]:
        return make_requests(self._model, "lora", self._load.num_requests, self._load.seed)

    def _run(self, batch: list[dict[str, Any]]) -> Images:
        weights = [{self._names[number % NUM_ADAPTERS]: 1.0} for number in range(len(batch))]
        if self._engine is not None:
            pairs = zip(batch, weights, strict=True)
            futures = [self._engine.submit(kwargs, adapters=own) for kwargs, own in pairs]
            return [image for future in futures for image in future.result().images]
        pipeline: Any = self._model.pipeline
        images: Images = []
        for kwargs, own in zip(batch, weights, strict=True):
            pipeline.set_adapters(list(own), list(own.values()))
            images += list(pipeline(**kwargs).images)
        return images


def print_adapters(result: dict[str, Any]) -> None:
    """The table, on stderr."""
    where = f"{result['model']}, {result['device']}, {result['dtype']}"
    title = f"lora: {result['num_requests']} requests over {result['num_adapters']} adapters, {where}"
    table = Table("way", "seconds", "mixed is", title=title)
    for name, label in _LABELS.items():
        ratio = result.get(f"ratio_vs_{name}")
        table.add_row(label, f"{result['seconds'][name]:.2f}", f"{ratio:.2f}x as fast" if ratio else "")
    console = Console(file=sys.stderr)
    console.print(table)
    console.print(f"largest difference to stock one by one: {result['max_abs_diff']:.1e}")
