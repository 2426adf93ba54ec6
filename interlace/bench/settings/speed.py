"""What makes forwards faster by name, beside the same model without it: in turn, the pictures compared."""

import statistics
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench import sides
from interlace.bench.load.pictures import Images, drawn
from interlace.bench.load.workloads import make_requests
from interlace.bench.machine import describe_model
from interlace.bench.result import command_of, write_result
from interlace.engine.engine import Engine
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from interlace.models.optimize import Optimizations

ENGINE_OPTIONS: dict[str, dict[str, Any]] = {
    "packing": {"resolution_tolerance": 0.1},
    "batch_invariant": {"batch_invariant": True},
    "auto": {"max_batch_rows": "auto"},
    "alone": {"max_batch_rows": 1},
}
_PLAIN: dict[str, Any] = {"max_batch_rows": None, "resolution_tolerance": 0.0, "verify_fusion": "off"}


@dataclass(frozen=True)
class SpeedSetting:
    """One way to load the model, or to share its forwards."""

    name: str
    optimize: str | None = None
    attention_backend: str | None = None
    dtype: str | None = None
    engine_option: str | None = None

    def load(self, model_name: str) -> Any:
        """A model of its own. Raises `InvalidRequestError` for what can't be done here."""
        wanted = Optimizations(
            attention_backend=self.attention_backend, names=(self.optimize,) if self.optimize else ()
        )
        model = load_model(model_name, dtype=self.dtype, optimizations=wanted)
        model.pipeline.set_progress_bar_config(disable=True)
        return model


def speed(
    *,
    model_name: str = "demo",
    optimize: tuple[str, ...] = ("compile", "channels_last", "fuse_qkv"),
    attention_backends: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = ("bfloat16",),
    engine_options: tuple[str, ...] = (),
    workload: str = "uniform",
    num_requests: int = 4,
    num_inference_steps: int = 8,
    repeats: int = 5,
    seed: int = 0,
) -> None:
    """Seconds for the same requests under each setting, and how many times faster than without, as medians of pairs.

    Without is sharing as widely as possible among equal sizes. Each setting has a process of its own.
    The first run of each (compiling, warming up) is
    reported apart. Prints a table on stderr and one JSON object on stdout. Raises `InvalidRequestError` for a name that
    isn't known or can't be used here.
    """
    command = command_of("speed", locals())
    if min(num_requests, num_inference_steps, repeats) < 1:
        raise InvalidRequestError(
            f"got {num_requests} requests, {num_inference_steps} steps, {repeats} repeats; expected at least 1 of each"
        )
    if unknown := set(engine_options) - set(ENGINE_OPTIONS):
        raise InvalidRequestError(f"engine options {sorted(unknown)}; expected some of {', '.join(ENGINE_OPTIONS)}")
    settings = [SpeedSetting("none"), *(SpeedSetting(name, optimize=name) for name in optimize)]
    settings += [SpeedSetting(f"attention {name}", attention_backend=name) for name in attention_backends]
    settings += [SpeedSetting(name, dtype=name) for name in dtypes]
    settings += [SpeedSetting(name, engine_option=name) for name in engine_options]
    draw = SpeedDrawing(model_name, workload, num_requests, num_inference_steps, seed)
    with sides.opened({setting.name: partial(SpeedSide, setting, draw) for setting in settings}) as ways:
        turns: dict[str, list[SpeedTurn]] = sides.in_turn(ways, repeats + 1)
    seconds = {name: [turn.seconds for turn in told] for name, told in turns.items()}
    rows = []
    for setting in settings:
        first, *own = seconds[setting.name]
        largest, mean = _differences(turns[setting.name][-1].images, turns["none"][-1].images)
        rows.append({
            **asdict(setting),
            "first_s": round(first, 3),
            "seconds": round(statistics.median(own), 3),
            "speedup": sides.paired_ratio(seconds["none"][1:], own),
            "max_difference": round(largest, 5),
            "mean_difference": round(mean, 7),
        })  # fmt: skip
    asked = {"workload": workload, "num_requests": num_requests, "num_inference_steps": num_inference_steps}
    _print_table(rows)
    write_result({"command": command, **asked, "repeats": repeats, **turns["none"][-1].facts, "settings": rows})


@dataclass(frozen=True)
class SpeedDrawing:
    """What every setting is asked to draw."""

    model_name: str
    workload: str
    num_requests: int
    num_inference_steps: int
    seed: int


@dataclass(frozen=True)
class SpeedTurn:
    """The requests once."""

    seconds: float
    images: Images
    facts: dict[str, Any]


class SpeedSide:
    """One setting with a model of its own; each call draws all requests."""

    def __init__(self, setting: SpeedSetting, drawing: SpeedDrawing) -> None:
        self._options = {**_PLAIN, **ENGINE_OPTIONS.get(setting.name, {})}
        self._drawing, self._model = drawing, setting.load(drawing.model_name)
        self._requests()  # refuses what the model can't draw before anything is measured

    def __call__(self) -> SpeedTurn:
        requests = self._requests()
        with Engine(self._model.pipeline, **self._options) as engine:
            start = perf_counter()
            images = drawn(engine, requests)
            return SpeedTurn(perf_counter() - start, images, describe_model(self._model))

    def _requests(self) -> list[dict[str, Any]]:
        drawing = self._drawing
        requests = make_requests(self._model, drawing.workload, drawing.num_requests, drawing.seed)
        return [{**kwargs, "num_inference_steps": drawing.num_inference_steps} for kwargs in requests]


def _differences(images: Images, expected: Images) -> tuple[float, float]:
    """The largest of a pixel, of 1, and the mean."""
    each = [np.abs(a - b) for a, b in zip(images, expected, strict=True)]
    return max(float(one.max()) for one in each), statistics.fmean(float(one.mean()) for one in each)


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table("setting", "first run", "seconds", "faster", "largest difference", "mean difference")
    for row in rows:
        numbers = (
            f"{row['first_s']:.2f}",
            f"{row['seconds']:.2f}",
            f"{row['speedup']:.2f}x",
            f"{row['max_difference']:g}",
            f"{row['mean_difference']:.1e}",
        )
        table.add_row(row["name"], *numbers)
    Console(stderr=True).print(table)
