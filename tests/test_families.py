"""Every pipeline of the zoo: requests that differ in everything, batched, equal the stock pipeline run alone."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from interlace import Engine
from tests.zoo import FAMILIES, Family

TOLERANCE = 1e-4  # max abs difference in float32, on outputs in [0, 1]


def arrays(output: Any) -> list[np.ndarray[Any, Any]]:
    """Whatever a pipeline returns, as arrays to compare."""
    if isinstance(output, BaseException):
        raise output
    if isinstance(output, torch.Tensor):
        return [output.float().numpy()]
    if isinstance(output, np.ndarray):
        return [output]
    if isinstance(output, (list, tuple)):
        return [array for item in output for array in arrays(item)]
    if hasattr(output, "to_tuple"):
        return arrays(output.to_tuple())
    if hasattr(output, "__dict__"):
        return arrays(list(vars(output).values()))
    return [np.asarray(output)] if not isinstance(output, (str, type(None))) else []


def difference(one: Any, other: Any) -> float:
    pairs = zip(arrays(one), arrays(other), strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)


def stock(pipeline: DiffusionPipeline, kwargs: dict[str, Any]) -> Any:
    """The pipeline alone, with torch's own generator as the engine gives it to a request."""
    generator = kwargs.get("generator")
    first = generator[0] if isinstance(generator, list) else generator
    torch.manual_seed(first.initial_seed() if first is not None else 0)
    return pipeline(**kwargs)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_batched_equals_alone(name: str) -> None:
    family = FAMILIES[name]
    pipeline = family.build()
    alone, calls_alone = run_alone(pipeline, family)
    with Engine(pipeline, max_batch_rows=None) as engine:  # "auto" shares where it was measured to pay
        first = engine.map(family.requests()[:1])[0]
        assert difference(first, alone[0]) == 0, "alone: to the last bit"
        batched = engine.map(family.requests())  # every kind is new, or verified with one row
        before = engine.stats()["forwards"]
        again = engine.map(family.requests())
        stats = engine.stats()
    for expected, result, repeated in zip(alone, batched, again, strict=True):
        assert difference(result, expected) < TOLERANCE
        assert difference(repeated, expected) < TOLERANCE
    if family.shares:
        shared = {name: stats["forwards"][name] - before[name] for name in family.denoisers}
        assert all(shared[name] < calls_alone[name] for name in family.denoisers), (shared, stats["unfused"])


def run_alone(pipeline: DiffusionPipeline, family: Family) -> tuple[list[Any], Counter[str]]:
    """The stock outputs of all requests one after the other, and how many forwards each denoiser ran for them."""
    counts: Counter[str] = Counter()
    hooks = [
        getattr(pipeline, name).register_forward_hook(lambda *_, name=name: counts.update([name]))
        for name in family.denoisers
    ]
    outputs = [stock(pipeline, kwargs) for kwargs in family.requests()]
    for hook in hooks:
        hook.remove()
    return outputs, counts
