"""The requests that the benchmarks run, as arguments for any image pipeline. Seeded, so that they repeat."""

import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from interlace.errors import InvalidRequestError
from interlace.models.loader import LoadedModel

_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")
_SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
_BASE_SIZE = 512  # pixels a side where the model has no default of its own


def make_requests(model: LoadedModel, workload: str, num_requests: int, seed: int) -> list[dict[str, Any]]:
    """`num_requests` fresh sets of arguments (generators included) for `workload`, equal for equal seeds.

    Raises `InvalidRequestError` for an unknown workload, or one that the model can't run.
    """
    if workload not in WORKLOADS:
        raise InvalidRequestError(f"workload is {workload!r}; expected one of {', '.join(WORKLOADS)}", "workload")
    rng = random.Random(seed)
    parameters = inspect.signature(model.pipeline.__call__).parameters
    if (workload == "edit") != ("image" in parameters):
        takes = "takes" if "image" in parameters else "takes no"
        raise InvalidRequestError(f"{type(model.pipeline).__name__} {takes} images; choose another workload or model")
    requests = []
    for index in range(num_requests):
        wanted = {
            "prompt": _prompt(rng),
            **WORKLOADS[workload](rng, index, _size(model), "true_cfg_scale" in parameters),
        }
        arguments = {**model.defaults, **wanted, "output_type": "np"}
        arguments["generator"] = torch.Generator("cpu").manual_seed(seed + index)
        requests.append({name: value for name, value in arguments.items() if name in parameters})
    return requests


def _size(model: LoadedModel) -> int:
    return int(model.defaults.get("height", _BASE_SIZE))


def _prompt(rng: random.Random) -> str:
    one, other = rng.sample(_COLOURS, 2)
    return f"a {one} {rng.choice(_SHAPES)} on a {other} background"


def _scaled(size: int, share: float) -> int:
    return max(round(size * share / 16) * 16, 16)


def _uniform(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    return {"height": size, "width": size, "num_inference_steps": 20}


def _mixed(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    """Steps 8 to 30, guidance 1 to 7, half with a negative prompt, three sizes."""
    side = rng.choice((size, size * 3 // 4 // 16 * 16, size // 2 // 16 * 16))
    scale = round(rng.uniform(1.0, 7.0), 1)
    request: dict[str, Any] = {"height": side, "width": side, "num_inference_steps": rng.randint(8, 30)}
    negative = f"a {rng.choice(_COLOURS)} {rng.choice(_SHAPES)}" if rng.random() < 0.5 else None
    if not true_cfg:
        return {**request, "guidance_scale": scale, "negative_prompt": negative}
    return {**request, "true_cfg_scale": scale if negative else 1.0, "negative_prompt": negative}


def _small(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    """Half to full size, 10 to 20 steps: forwards that leave a device idle."""
    side = _scaled(size, rng.choice((0.5, 0.625, 0.75, 1.0)))
    return {"height": side, "width": side, "num_inference_steps": rng.randint(10, 20)}


def _turbo(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    """Four steps: encoding and decoding weigh."""
    return {"height": size, "width": size, "num_inference_steps": 4, **({"true_cfg_scale": 1.0} if true_cfg else {})}


def _long(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    return {"height": size, "width": size, "num_inference_steps": 50}


def _lora(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    """Half size, 10 to 20 steps; which adapter a request has goes by its number."""
    return {"height": _scaled(size, 0.5), "width": _scaled(size, 0.5), "num_inference_steps": rng.randint(10, 20)}


def _edit(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    """Another picture, size, number of steps and instruction in every request."""
    side = _scaled(size, rng.choice((0.5, 0.75, 1.0)))
    blobs = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(blobs).resize((side, side), Image.Resampling.BICUBIC)
    prompt = f"make the {rng.choice(_SHAPES)} {rng.choice(_COLOURS)}"
    return {"prompt": prompt, "image": picture, "height": side, "width": side,
            "num_inference_steps": rng.randint(8, 24)}  # fmt: skip


def _close(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    """Five sizes within a tenth of each other, in other aspects: 60 to 64 units where the base size is 8 x 8."""
    height, width = ((8, 8), (7, 9), (9, 7), (6, 10), (10, 6))[index % 5]
    return {"height": _scaled(size, height / 8), "width": _scaled(size, width / 8), "num_inference_steps": 20}


def _dataset_c(rng: random.Random, index: int, size: int, true_cfg: bool) -> dict[str, Any]:
    """Source: the mix "Dataset C" of vLLM-Omni's and SGLang's benchmarks, sizes relative to its most common one."""
    side, steps = rng.choices(((0.5, 20), (0.75, 20), (1.0, 25), (1.5, 35)), (15, 25, 45, 15))[0]
    return {"height": _scaled(size, side), "width": _scaled(size, side), "num_inference_steps": steps}


WORKLOADS: dict[str, Callable[[random.Random, int, int, bool], dict[str, Any]]] = {
    "uniform": _uniform,
    "mixed": _mixed,
    "small": _small,
    "turbo": _turbo,
    "long": _long,
    "edit": _edit,
    "lora": _lora,
    "close": _close,
    "dataset-c": _dataset_c,
}
