"""How much a request is, and what it shares forwards with, from its own words. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlace.request import Request, SamplingParams

_STEPS, _SIDE = 30, 1024  # where neither the request nor the model says
_TOKENS = 256  # of a text whose length is not limited


@dataclass(frozen=True)
class ReplicaWork:
    """`amount` in megapixel steps (of a text: tokens), `key`: equal ones can share forwards."""

    amount: float
    key: tuple[Any, ...]


def work_of(request: Request, defaults: Mapping[str, object]) -> ReplicaWork:
    """A request's work; `defaults` are what the model takes where it says nothing."""
    sampling = request.sampling
    if not isinstance(sampling, SamplingParams):
        return ReplicaWork(float(sampling.max_tokens or _TOKENS), ("text",))

    def number(name: str, otherwise: float) -> float:
        given = getattr(sampling, name) or defaults.get(name)
        return float(given) if isinstance(given, (int, float)) and given > 0 else otherwise

    size = number("height", _SIDE), number("width", _SIDE), number("num_frames", 1)
    steps = number("num_inference_steps", _STEPS) * sampling.num_images
    variant = repr(getattr(sampling, "lora", None))
    return ReplicaWork(steps * size[0] * size[1] * size[2] / 1e6, (*size, variant))
