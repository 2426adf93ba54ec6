"""The requests that the benchmarks run, as arguments for any text-to-image pipeline. Seeded, so that they repeat."""

import inspect
import random
from collections.abc import Callable
from typing import Any

import torch

from interlace.errors import InvalidRequestError
from interlace.models.loader import LoadedModel

_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")
_SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
_BASE_SIZE = 512  # pixels a side where the model has no default of its own


def make_requests(model: LoadedModel, workload: str, num_requests: int, seed: int) -> list[dict[str, Any]]:
    """`num_requests` fresh sets of arguments (generators included) for `workload`, equal for equal seeds.

    Raises `InvalidRequestError` for an unknown workload.
    """
    if workload not in WORKLOADS:
        raise InvalidRequestError(f"workload is {workload!r}; expected one of {', '.join(WORKLOADS)}", "workload")
    rng = random.Random(seed)
    parameters = inspect.signature(model.pipeline.__call__).parameters
    requests = []
    for index in range(num_requests):
        wanted = {"prompt": _prompt(rng), **WORKLOADS[workload](rng, _size(model), "true_cfg_scale" in parameters)}
        arguments = {**model.defaults, **wanted, "output_type": "np"}
        arguments["generator"] = torch.Generator("cpu").manual_seed(seed + index)
        requests.append({name: value for name, value in arguments.items() if name in parameters})
    return requests


def _size(model: LoadedModel) -> int:
    return int(model.defaults.get("height", _BASE_SIZE))


def _prompt(rng: random.Random) -> str:
    one, other = rng.sample(_COLOURS, 2)
    return f"a {one} {rng.choice(_SHAPES)} on a {other} background"


def _uniform(rng: random.Random, size: int, true_cfg: bool) -> dict[str, Any]:
    return {"height": size, "width": size, "num_inference_steps": 20}


def _mixed(rng: random.Random, size: int, true_cfg: bool) -> dict[str, Any]:
    """Steps 8 to 30, guidance 1 to 7, half with a negative prompt, three sizes."""
    side = rng.choice((size, size * 3 // 4 // 16 * 16, size // 2 // 16 * 16))
    scale = round(rng.uniform(1.0, 7.0), 1)
    request: dict[str, Any] = {"height": side, "width": side, "num_inference_steps": rng.randint(8, 30)}
    negative = f"a {rng.choice(_COLOURS)} {rng.choice(_SHAPES)}" if rng.random() < 0.5 else None
    if not true_cfg:
        return {**request, "guidance_scale": scale, "negative_prompt": negative}
    return {**request, "true_cfg_scale": scale if negative else 1.0, "negative_prompt": negative}


WORKLOADS: dict[str, Callable[[random.Random, int, bool], dict[str, Any]]] = {"uniform": _uniform, "mixed": _mixed}
