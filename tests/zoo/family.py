"""What a member of the zoo is, and what its builders and requests share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

PROMPTS = (
    "a red fox",
    "a small blue boat on a quiet lake at dawn, with pine trees and a pale mountain behind it",
    "two cats",
    "an old stone bridge over a river, oil painting",
    "",
    "portrait of a woman in a green coat, holding a yellow umbrella in the rain, a tram passes, night, street lamps",
    "a bowl of oranges on a wooden table",
    "snow",
)


@dataclass(frozen=True)
class Family:
    """`build` gives equal weights at every call; `requests` gives fresh keyword arguments for the pipeline's call."""

    name: str
    build: Callable[[], DiffusionPipeline]
    requests: Callable[[], list[dict[str, Any]]]
    shares: bool = True
    note: str = ""
    denoisers: tuple[str, ...] = ("transformer",)


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def picture(number: int, size: int | tuple[int, int] = 32) -> Image.Image:
    """A seeded RGB image of smooth blobs; `size` is a side, or width and height."""
    width, height = (size, size) if isinstance(size, int) else size
    coarse = numpy.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=numpy.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def mask(number: int, size: int | tuple[int, int] = 32) -> Image.Image:
    """A seeded greyscale mask: a white rectangle on black."""
    width, height = (size, size) if isinstance(size, int) else size
    random = numpy.random.default_rng(number)
    left, top = int(random.integers(0, width // 2)), int(random.integers(0, height // 2))
    area = numpy.zeros((height, width), dtype=numpy.uint8)
    area[top : top + height // 2, left : left + width // 2] = 255
    return Image.fromarray(area)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Equal random weights inside, and the caller's random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def randomise_zero_parameters(module: nn.Module, scale: float = 0.1) -> None:
    """Zero-initialised gates and output layers would hide the prompt: small normals take their place."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and not parameter.any():
            parameter.normal_(0.0, scale)


@torch.no_grad()
def strengthen(module: nn.Module, factor: float = 2.0) -> None:
    """Larger weights, where a prompt's influence would drown in rounding."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.mul_(factor)


def finish(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Evaluation mode, no all-zero parameters, no progress bar."""
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.eval().requires_grad_(False)
            randomise_zero_parameters(component)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def variations(
    *extras: dict[str, Any], sizes: tuple[tuple[int, int], ...] = ((32, 32), (48, 32)), **common: Any
) -> list[dict[str, Any]]:
    """A request for each of `extras`, with its own prompt, seed, steps and size (height, width); None drops one."""
    requests = []
    for number, extra in enumerate(extras):
        height, width = sizes[number % len(sizes)]
        request = {
            "prompt": PROMPTS[number],
            "height": height,
            "width": width,
            "num_inference_steps": (3, 2, 4, 3, 5, 2)[number],
            "generator": generator(100 + number),
            "output_type": "np",
            **common,
            **extra,
        }
        requests.append({name: value for name, value in request.items() if value is not None})
    return requests
