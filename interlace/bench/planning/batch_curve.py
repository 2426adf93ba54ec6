"""`interlace bench batch-curve` and `profile`: what a forward of each module costs by its number of rows."""

import contextlib
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from interlace.bench.machine import describe_model
from interlace.bench.planning.calls import one_call_of_each
from interlace.bench.result import command_of, write_result
from interlace.engine.accelerator import synchronize
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import fuse
from interlace.engine.calls.packing.positions import KnownTables
from interlace.engine.costs import costs_of
from interlace.engine.policy.cost import CostModel
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model

_GEMM = 1024  # rows and columns of the matrices that say what the device gives


@dataclass(frozen=True)
class BatchCurve:
    """One shape's seconds by rows, and the floating point operations of one row."""

    shape: str
    seconds: dict[int, float]
    flops: float


def batch_curve(
    *,
    model_name: str = "demo",
    sizes: tuple[int, ...] = (),
    max_rows: int = 16,
    repeats: int = 5,
    save: bool = False,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure every module at 1, 2, 4, ... `max_rows` rows, at each of `sizes` pixels a side.

    With `save` the engine knows these costs from then on. Prints a table on stderr and one JSON object on stdout.
    """
    if max_rows < 1 or repeats < 1 or any(size < 16 for size in sizes):
        raise InvalidRequestError(f"got max_rows {max_rows}, repeats {repeats}, sizes {sizes}; expected 1, 1, 16 px")
    flags = {"model_name": model_name, "sizes": sizes, "max_rows": max_rows}
    command = command_of("profile", flags) if save else command_of("batch-curve", {**flags, "repeats": repeats})
    model = load_model(model_name)
    model.pipeline.set_progress_bar_config(disable=True)
    peak = gemm_flops(model.pipeline.device, model.pipeline.dtype)
    curves: dict[str, BatchCurve] = {}
    for size in sizes or (int(model.defaults.get("height", 512)),):
        for call in one_call_of_each(model, size, size):
            if call.shape not in curves:
                curves[call.shape] = measured(call, max_rows, repeats)
    if save:
        _keep(curves.values(), costs_of(model.pipeline))
    result = {
        "command": command,
        **describe_model(model),
        "gemm_gflops": round(peak / 1e9, 2),
        "curves": {curve.shape: _figures(curve, peak) for curve in curves.values()},
    }
    _print_table(result)
    if plot is not None:
        _plot(curves.values(), plot)
    write_result(result, output)


@torch.no_grad()
def gemm_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a large matrix product: the practical limit of the device."""
    a = torch.randn(_GEMM, _GEMM, device=device).to(dtype)
    best = min(seconds_of(lambda: a @ a, device) for _ in range(8))
    return 2.0 * _GEMM**3 / best


@torch.no_grad()
def measured(
    call: ModuleCall,
    max_rows: int,
    repeats: int,
    of: Callable[[list[float]], float] = min,
    clock: Callable[[], float] = perf_counter,
) -> BatchCurve:
    """Seconds of forwards of `call` beside copies of itself: the fastest (`of`) of `repeats`, after a first that
    doesn't count."""
    seconds: dict[int, float] = {}
    device = next(leaf.device for leaf in call.leaves if isinstance(leaf, torch.Tensor))
    copies = 1
    with contextlib.closing(KnownTables()) as tables, tables.within(call):  # as the engine runs them
        while copies * call.rows <= max(max_rows, call.rows):
            args, kwargs = fuse([call] * copies)
            run = lambda: call.target.run(*args, **kwargs)  # noqa: E731, B023
            run()
            seconds[copies * call.rows] = of([seconds_of(run, device, clock) for _ in range(repeats)])
            copies *= 2
    with FlopCounterMode(display=False) as counter:
        call.target.run(*call.args, **call.kwargs)
    return BatchCurve(call.shape, seconds, counter.get_total_flops() / call.rows)


def seconds_of(run: Callable[[], object], device: torch.device, clock: Callable[[], float] = perf_counter) -> float:
    """Seconds of one `run`, until the device is done with it."""
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


def _keep(curves: Any, cost: CostModel) -> None:
    for curve in curves:
        for rows, seconds in curve.seconds.items():
            cost.know(curve.shape, rows, seconds)
    cost.save()


def _figures(curve: BatchCurve, peak: float) -> dict[str, Any]:
    first = min(curve.seconds)
    alone = curve.seconds[first] / first
    return {
        "ms": {str(rows): round(1000 * s, 3) for rows, s in curve.seconds.items()},
        "gain": {str(rows): round(alone * rows / s, 2) for rows, s in curve.seconds.items()},
        "gflop_per_row": round(curve.flops / 1e9, 3),
        "of_gemm": {str(rows): round(curve.flops * rows / s / peak, 3) for rows, s in curve.seconds.items()},
    }


def _print_table(result: dict[str, Any]) -> None:
    title = f"{result['model']}, {result['device']}; a large matrix product runs at {result['gemm_gflops']:.0f} GFLOP/s"
    table = Table("module", "rows", "ms", "gain over one row", "of the matrix product", title=title)
    for shape, figures in result["curves"].items():
        for index, (rows, ms) in enumerate(figures["ms"].items()):
            name = shape.split(" ")[0] if index == 0 else ""
            table.add_row(name, rows, f"{ms:.1f}", f"{figures['gain'][rows]:.2f}x", f"{figures['of_gemm'][rows]:.0%}")
    Console(file=sys.stderr).print(table)


def _plot(curves: Any, path: Path) -> None:
    from interlace.bench.plots import lines

    series = {}
    for curve in curves:
        alone = statistics.mean(s / rows for rows, s in curve.seconds.items() if rows == min(curve.seconds))
        series[curve.shape.split(" ")[0]] = [(rows, alone * rows / s) for rows, s in curve.seconds.items()]
    lines(path, series, "rows in a forward", "gain over one row at a time")
