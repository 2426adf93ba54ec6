"""A forward in `Omni` beside the same forward in stock diffusers, and a small FLUX beside static batches.

`python bench/forwards.py`: each side in a process of its own, in turn. A table on stderr, one JSON object on stdout.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace.bench import sides
from interlace.bench.machine import describe_machine

STEPS = 8
ROWS = (1, 8, 16)


@dataclass(frozen=True)
class Task:
    """Requests of one size; `steps` of each, in order."""

    steps: tuple[int, ...]
    size: int


class Forwards:
    """A model of its own, whose denoiser's forwards are timed. `stock`: static batches of equal requests."""

    def __init__(self, stock: bool, small_flux: bool) -> None:
        import torch

        from interlace import Omni
        from interlace.models.loader import load_model
        from interlace.models.optimize import AUTO

        model = load_model("demo", optimizations=None if stock else AUTO)
        model.pipeline.set_progress_bar_config(disable=True)
        if small_flux:
            torch.manual_seed(0)
            model = replace(model, name="small-flux", pipeline=with_small_flux(model.pipeline))
            if not stock:
                AUTO.apply(model.pipeline)
        self._defaults = dict(model.defaults)
        self._pipeline, self.seconds = model.pipeline, list[float]()
        timed(self._pipeline.transformer, self.seconds)
        self._omni = None if stock else Omni(model, max_num_seqs=16)
        for _ in range(2):
            self(Task((3,) * 16, 64))

    def __call__(self, task: Task) -> tuple[float, float, float]:
        """Seconds of the whole, of one forward (the median), and of all forwards together."""
        self.seconds.clear()
        start = perf_counter()
        if self._omni is not None:
            self._shared(task)
        else:
            self._stock(task)
        return perf_counter() - start, statistics.median(self.seconds), sum(self.seconds)

    def close(self) -> None:
        if self._omni is not None:
            self._omni.close()

    def _shared(self, task: Task) -> None:
        assert self._omni is not None
        size = {"height": task.size, "width": task.size}
        prompts = [{"prompt": f"a red circle {n}", "num_inference_steps": s, **size} for n, s in enumerate(task.steps)]
        self._omni.generate(prompts, raise_on_error=True)

    def _stock(self, task: Task) -> None:
        for steps in dict.fromkeys(task.steps):  # those of equal steps together
            prompts = [f"a red circle {n}" for n, own in enumerate(task.steps) if own == steps]
            own = {"num_inference_steps": steps, "height": task.size, "width": task.size}
            self._pipeline(prompts, **{**self._defaults, **own})  # as long texts as `Omni`'s


def with_small_flux(pipeline: Any) -> Any:
    """The same with a transformer of 17.7 million random parameters: 8 heads of 32, 4 double and 8 single blocks."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    sizes = {name: pipeline.transformer.config[name] for name in
             ("in_channels", "joint_attention_dim", "pooled_projection_dim", "guidance_embeds")}  # fmt: skip
    blocks = {"num_layers": 4, "num_single_layers": 8, "attention_head_dim": 32, "num_attention_heads": 8}
    transformer = FluxTransformer2DModel(**sizes, **blocks, patch_size=1, axes_dims_rope=(8, 12, 12)).eval()
    made = FluxPipeline(**{**pipeline.components, "transformer": transformer})
    made.set_progress_bar_config(disable=True)
    return made


def timed(module: Any, seconds: list[float]) -> None:
    forward: Callable[..., Any] = module.forward

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        output = forward(*args, **kwargs)
        seconds.append(perf_counter() - start)
        return output

    module.forward = run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    mixed = tuple(6 + n % 7 for n in range(8))  # 6 to 12 steps
    wanted = {
        "demo": {f"{rows} rows": Task((STEPS,) * rows, 128) for rows in ROWS},
        "small flux": {
            **{f"8 equal, {size} px": Task((STEPS,) * 8, size) for size in (64, 128)},
            **{f"8 mixed, {size} px": Task(mixed, size) for size in (64, 128)},
        },
    }
    result: dict[str, Any] = {"bench": "forwards", "repeats": args.repeats, **describe_machine(), "tasks": {}}
    for name, tasks in wanted.items():
        ways = {way: partial(Forwards, way == "stock", name != "demo") for way in ("stock", "omni")}
        with sides.opened(ways) as opened:
            for what, task in tasks.items():
                sides.in_turn(opened, 1, task)
                told = sides.in_turn(opened, args.repeats, task)
                result["tasks"][f"{name}, {what}"] = figures(told)
                sys.stderr.write(f"{name}, {what}: {result['tasks'][f'{name}, {what}']}\n")
    line = json.dumps(result)
    print(line)
    if args.output:
        args.output.write_text(line + "\n", encoding="utf-8")


def figures(told: dict[str, list[tuple[float, float, float]]]) -> dict[str, float]:
    """Times as long as stock: the whole, and one forward; and the share of the whole that the forwards are."""
    whole, one, every = ({way: [turn[i] for turn in turns] for way, turns in told.items()} for i in range(3))
    return {
        "seconds_stock": round(statistics.median(whole["stock"]), 3),
        "seconds_omni": round(statistics.median(whole["omni"]), 3),
        "omni_takes": sides.paired_ratio(whole["omni"], whole["stock"]),
        "a_forward_takes": sides.paired_ratio(one["omni"], one["stock"]),
        "share_of_forwards_stock": sides.paired_ratio(every["stock"], whole["stock"]),
        "share_of_forwards_omni": sides.paired_ratio(every["omni"], whole["omni"]),
    }


if __name__ == "__main__":
    main()
