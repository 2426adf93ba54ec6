"""Batch size against memory and speed for one picture size, measured here: `interlace info --height H --width W`."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from interlace.bench.planning.batch_curve import seconds_of
from interlace.bench.planning.calls import calls_of, short_request
from interlace.config import EngineConfig
from interlace.engine.accelerator import counts_memory, name_of
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import fuse
from interlace.engine.costs import costs_of
from interlace.engine.memory.footprint import Footprint, budget_of
from interlace.engine.pipeline.view import modules_of
from interlace.engine.policy.pending import DECODE, DENOISE, stage_of
from interlace.errors import InvalidRequestError
from interlace.models.arguments import ArgumentMapper
from interlace.models.loader import LoadedModel
from interlace.request import Request, SamplingParams
from interlace.units import show_bytes

_MAX_BATCH = 16
_PATIENCE_S = 30.0  # of measuring, after which no larger batch is begun
_SHORT_STEPS = 2
_STEPS = 28  # where neither the model nor its pipeline has a default
_WORTH = 1.05  # a larger batch is recommended only where it makes pictures so much faster


@dataclass(frozen=True)
class _SizedPart:
    """A call of one request, and how often the request makes it."""

    call: ModuleCall
    count: float


@torch.no_grad()
def batch_table(model: LoadedModel, height: int, width: int, config: EngineConfig | None = None) -> dict[str, Any]:
    """Measured bytes, seconds and pictures a second of 1, 2, 4, ... equal requests that run together.

    Raises `InvalidRequestError` for a size that the model does not take.
    """
    mapper = ArgumentMapper(model)
    plain = Request(request_id="info", prompt="a", sampling=SamplingParams(height=height, width=width))
    steps = int(mapper.resolved(plain).get("num_inference_steps") or _STEPS)
    mapper.arguments(plain)  # refuses what the model does not take
    device, modules = model.pipeline.device, list(modules_of(model.pipeline).values())
    budget, weights = budget_of(modules, device, config or EngineConfig())
    parts = _parts(model, height, width, steps)
    begun, batch, lines = perf_counter(), 1, list[dict[str, Any]]()
    while batch <= _MAX_BATCH and (perf_counter() - begun < _PATIENCE_S or not lines):
        try:
            lines.append(_line(parts, batch, device, weights))
        except torch.OutOfMemoryError:
            break
        batch *= 2
    for line in lines:
        line["fits"] = budget is None or line["forward_bytes"] <= budget
        line["decode_fits"] = budget is None or line["decode_bytes"] <= budget  # else it runs in slices or tiles
        line["memory_factor"] = round(line["bytes"] / lines[0]["bytes"], 2)
        line["speed_factor"] = round(line["pictures_per_s"] / lines[0]["pictures_per_s"], 2)
    return {
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "device": name_of(device),
        "memory": "peak of the allocator" if counts_memory(device) else "estimate: tensors alive at one time",
        "weight_bytes": weights,
        "budget_bytes": None if budget is None else budget + weights,
        "batches": lines,
        "recommended_batch_size": _recommended(lines),
        "known_costs": costs_of(model.pipeline).describe(),
    }


def _parts(model: LoadedModel, height: int, width: int, steps: int) -> list[_SizedPart]:
    counts: dict[str, float] = {}
    calls: dict[str, ModuleCall] = {}
    for call in calls_of(model.pipeline, short_request(model, height, width, _SHORT_STEPS)):
        repeats = stage_of(call.target.component, call.target.method) == DENOISE
        counts[call.shape] = counts.get(call.shape, 0.0) + (steps / _SHORT_STEPS if repeats else 1)
        calls.setdefault(call.shape, call)
    if not calls:
        raise InvalidRequestError(f"no call of {type(model.pipeline).__name__} can be shared; there is no batch")
    return [_SizedPart(call, counts[shape]) for shape, call in calls.items()]


def _line(parts: list[_SizedPart], batch: int, device: torch.device, weights: int) -> dict[str, Any]:
    """One batch size: the most that forwards take at one time, those of the VAE's decoder apart; the time of all."""
    peaks, total, step = {DECODE: 0, DENOISE: 0}, 0.0, 0.0
    for part in parts:
        with Footprint(device) as footprint:
            args, kwargs = fuse([part.call] * batch)
            part.call.target.run(*args, **kwargs)
        run = lambda: part.call.target.run(*args, **kwargs)  # noqa: E731, B023
        seconds = min(seconds_of(run, device) for _ in range(2))
        stage = stage_of(part.call.target.component, part.call.target.method)
        kind = DECODE if stage == DECODE else DENOISE
        peaks[kind], total = max(peaks[kind], footprint.bytes), total + part.count * seconds
        step = max(step, seconds) if stage == DENOISE else step
    return {
        "batch_size": batch,
        "forward_bytes": peaks[DENOISE],
        "decode_bytes": peaks[DECODE],
        "bytes": weights + max(peaks.values()),
        "denoise_ms": round(1000 * step, 2),
        "pictures_per_s": round(batch / total, 4),
    }


def _recommended(lines: list[dict[str, Any]]) -> int | None:
    """The largest that fits and still pays."""
    best: dict[str, Any] | None = None
    for line in lines:
        if line["fits"] and (best is None or line["pictures_per_s"] > _WORTH * best["pictures_per_s"]):
            best = line
    return None if best is None else int(best["batch_size"])


def table_rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table as texts, with a heading."""
    heading = ("batch size", "memory", "of one", "denoiser", "pictures/s", "of one", "")
    return [
        heading,
        *(
            (
                str(line["batch_size"]),
                show_bytes(line["bytes"]),
                f"{line['memory_factor']:.2f}x",
                f"{line['denoise_ms']:.1f} ms",
                f"{line['pictures_per_s']:.3g}",
                f"{line['speed_factor']:.2f}x",
                _remark(line, table),
            )
            for line in table["batches"]
        ),
    ]


def _remark(line: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    if not line["fits"]:
        return "too large"
    remarks = ["best"] if line["batch_size"] == table["recommended_batch_size"] else []
    return ", ".join([*remarks, *([] if line["decode_fits"] else ["decodes in slices or tiles"])])
