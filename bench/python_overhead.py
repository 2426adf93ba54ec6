"""Microseconds of Python that sharing adds to each request and step: `python bench/python_overhead.py` at the root."""

import functools
import json
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from time import process_time, thread_time
from typing import Any

import torch
from peft import LoraConfig

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace import Engine
from interlace.bench.planning.calls import calls_of
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import fuse
from interlace.engine.calls.split import split
from interlace.engine.pipeline.ambient import Ambient, current_key
from interlace.engine.pipeline.strand import Strand
from interlace.engine.pipeline.tenancy import Tenancy
from tests.tiny import tiny_flux
from tests.zoo import FAMILIES

ROWS = 8


def microseconds(run: Callable[[], object]) -> float:
    """The fastest of many: other programs only ever add time."""
    return round(min(timeit.repeat(run, number=200, repeat=25)) / 200 * 1e6, 1)


def tiny_sd() -> Any:
    """A UNet with a LoRA adapter: state in attributes, processors and dicts."""
    pipeline = FAMILIES["sd15-ddim"].build()
    pipeline.unet.add_adapter(LoraConfig(target_modules=["to_q", "to_k", "to_v"]))
    return pipeline


def go_on(tenancy: Tenancy, strand: Strand) -> None:
    """What tells whose state it is, around a pipeline's code between two calls and around the forward."""
    tenancy.commons.wear(strand.variant)
    with tenancy._changing(strangers=strand.strangers) as note:
        pass
    strand.variant = note.variant
    tenancy.wear(strand)


def cpu_outside_forwards(pipeline: Any, *, join_equal: bool) -> float:
    """Microseconds of CPU a request and step of `ROWS` equal requests, but for their forwards: the least of five."""
    inside, forward = [0.0], pipeline.transformer.forward

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        start = thread_time()
        output = forward(*args, **kwargs)
        inside[0] += thread_time() - start
        return output

    def cpu(engine: Engine, steps: int) -> float:
        sizes = {"height": 16, "width": 16, "num_inference_steps": steps, "max_sequence_length": 16}
        requests = [{"prompt": f"n {n}", "generator": torch.Generator().manual_seed(n), **sizes} for n in range(ROWS)]
        start, before = process_time(), inside[0]
        engine.map(requests)
        return process_time() - start - (inside[0] - before)

    pipeline.transformer.forward = run
    with Engine(pipeline, join_equal=join_equal) as engine:
        for _ in range(2):  # learns, and checks
            cpu(engine, 3)
        each = [(cpu(engine, 50) - cpu(engine, 10)) / 40 / ROWS for _ in range(5)]
    del pipeline.transformer.forward
    return round(min(each) * 1e6, 1)


def _with_scale(tenancy: Tenancy, strand: Strand) -> Strand:
    other = Strand(lambda: None, strand.ambient, {})
    with tenancy._changing(strangers=False) as note:
        tenancy._pipelines[0].unet.set_adapters(["default"], [0.5])
    other.variant = note.variant
    tenancy.commons.rest()
    return other


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    pipeline = tiny_flux()
    pipeline.set_progress_bar_config(disable=True)
    request = {"prompt": "n", "height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": 16}
    call = next(c for c in calls_of(pipeline, request) if c.target.component == "transformer")
    calls, ambient = [call] * ROWS, Ambient(0)
    args, kwargs = fuse(calls)
    output = call.target.run(*args, **kwargs)
    tenancy, strand = Tenancy(tiny_sd()), Strand(lambda: None, ambient, {})
    with_scale = _with_scale(tenancy, strand)
    parts = {
        "analyse": microseconds(lambda: hash(ModuleCall(call.target, call.args, call.kwargs, current_key()).signature)),
        "whose_state": microseconds(lambda: go_on(tenancy, strand)),
        "torch_state": microseconds(lambda: (ambient.install(), ambient.capture())),
        "concat": round(microseconds(lambda: fuse(calls)) / ROWS, 1),
        "split": round(microseconds(lambda: split(output, calls)) / ROWS, 1),
    }
    strand.strangers = True
    extra = {
        "whose_state_with_a_callback": microseconds(lambda: go_on(tenancy, strand)),
        "whose_state_with_a_variant_of_its_own": microseconds(
            lambda: (go_on(tenancy, strand), go_on(tenancy, with_scale))
        ),
    }
    tenancy.close()
    ways = {way: cpu_outside_forwards(pipeline, join_equal=way == "together") for way in ("apart", "together")}
    result = {"ways": ways, "rows": ROWS, "us_by_request_and_step": parts, "sum_us": round(sum(parts.values()), 1)}
    print(json.dumps({**result, "us_in_place_of_whose_state": extra}))


if __name__ == "__main__":
    main()
