"""Microseconds of Python that sharing adds to each request and step: `python bench/python_overhead.py` at the root."""

import json
import sys
import timeit
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace.bench.calls import calls_of
from interlace.engine.ambient import Ambient, current_key
from interlace.engine.call import ModuleCall
from interlace.engine.fuse import fuse, split
from tests.tiny import tiny_flux

ROWS = 8


def microseconds(run: Callable[[], object]) -> float:
    """The fastest of many: other programs only ever add time."""
    return round(min(timeit.repeat(run, number=200, repeat=25)) / 200 * 1e6, 1)


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
    parts = {
        "analyse": microseconds(lambda: hash(ModuleCall(call.target, call.args, call.kwargs, current_key()).signature)),
        "torch_state": microseconds(lambda: (ambient.install(), ambient.capture())),
        "concat": round(microseconds(lambda: fuse(calls)) / ROWS, 1),
        "split": round(microseconds(lambda: split(output, calls)) / ROWS, 1),
    }
    print(json.dumps({"rows": ROWS, "us_by_request_and_step": parts, "sum_us": round(sum(parts.values()), 1)}))


if __name__ == "__main__":
    main()
