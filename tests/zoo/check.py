"""Stock pipelines alone: equal to the bit when run twice, finite, and different between requests.

python -m tests.zoo.check [NAME...]
"""

import os
import sys
import time
import traceback
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import numpy
import torch

from . import FAMILIES
from .family import Family


def arrays(output: Any) -> list[numpy.ndarray]:
    """Every array of a pipeline's output, however nested."""
    if output is None:
        return []
    if isinstance(output, torch.Tensor):
        return [output.detach().float().cpu().numpy()]
    if isinstance(output, numpy.ndarray):
        return [output]
    if isinstance(output, dict):
        return [array for value in output.values() for array in arrays(value)]
    if isinstance(output, list | tuple):
        return [array for value in output for array in arrays(value)]
    if hasattr(output, "convert"):
        return [numpy.asarray(output)]
    return []


def run(pipeline: Any, request: dict[str, Any]) -> list[numpy.ndarray]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return arrays(pipeline(**request))


def _same(left: list[numpy.ndarray], right: list[numpy.ndarray]) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and numpy.array_equal(a, b) for a, b in zip(left, right, strict=True)
    )


def _weights(pipeline: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, component in pipeline.components.items()
        if isinstance(component, torch.nn.Module)
        for key, value in component.state_dict().items()
    }


def check(family: Family) -> list[str]:
    """What is wrong with the family; prints its times."""
    start = time.perf_counter()
    pipeline = family.build()
    built = time.perf_counter() - start
    problems, seconds, first = [], [], []
    for request in family.requests():
        start = time.perf_counter()
        first.append(run(pipeline, request))
        seconds.append(time.perf_counter() - start)
    other, rubbish = family.build(), torch.full((1_000_000,), float("nan"))
    del rubbish
    again = [run(other, request) for request in family.requests()]
    one, two = _weights(pipeline), _weights(other)
    problems += [f"{name} differs between builds" for name in one if not torch.equal(one[name], two[name])]
    for number, (one, two) in enumerate(zip(first, again, strict=True)):
        if not one:
            problems.append(f"request {number} gives no array")
        if not _same(one, two):
            problems.append(f"request {number} differs when run twice")
        if not all(numpy.isfinite(array).all() for array in one):
            problems.append(f"request {number} is not finite")
        if one and min(float(array.std()) for array in one) < 1e-3:
            problems.append(f"request {number} is flat")
        problems += [f"requests {other} and {number} agree" for other in range(number) if _same(one, first[other])]
    effect = _effect(family, pipeline, first)
    if effect is not None and effect < 1e-4:
        problems.append("the prompt hardly matters")
    shapes = sorted({str(array.shape) for one in first for array in one})
    if len(shapes) < 2:
        problems.append("only one size")
    if built > 2:
        problems.append("slow to build")
    if max(seconds) > 1:
        problems.append("a slow request")
    times = " ".join(f"{second:.2f}" for second in seconds)
    print(f"{family.name:28} build {built:.2f} s, requests {times} s, prompt {effect or 0:.1e}, {' '.join(shapes)}")
    return problems


def _effect(family: Family, pipeline: Any, first: list[list[numpy.ndarray]]) -> float | None:
    """How far another prompt moves the output of the first request."""
    request = family.requests()[0]
    if not isinstance(request.get("prompt"), str):
        return None
    request["prompt"] += " and the moon"
    other = run(pipeline, request)
    return max(float(numpy.abs(a - b).max()) for a, b in zip(other, first[0], strict=True) if a.shape == b.shape)


def main() -> int:
    torch.set_num_threads(1)
    failed = 0
    for name in sys.argv[1:] or FAMILIES:
        try:
            problems = check(FAMILIES[name])
        except Exception:
            problems = [traceback.format_exc()]
        for problem in problems:
            print(f"{name:28} WRONG: {problem}")
        failed += bool(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
