"""Step caches by name: what may answer a request's denoiser calls in the place of a forward.

A new one is a class with `lookup` and `store`, and `register_step_cache("name", TheClass, threshold)`.
"""

from collections.abc import Callable
from typing import Protocol

from interlace.config import CACHE_THRESHOLDS
from interlace.engine.caches.step import StepCache
from interlace.engine.calls.call import ModuleCall


class RequestCache(Protocol):
    """What one request remembers of its own denoiser calls."""

    def lookup(self, call: ModuleCall, step: int, num_steps: int) -> object | None:
        """The output to give for a call that need not run; None where it must. `step` of `num_steps` are behind us."""

    def store(self, call: ModuleCall, output: object) -> None:
        """A call has run and came to this. The pipeline may change it in place: keep copies."""


MakeStepCache = Callable[[float], RequestCache]  # from the threshold that the engine was given

STEP_CACHES: dict[str, MakeStepCache] = {"step_cache": StepCache}


def register_step_cache(name: str, make: MakeStepCache, threshold: float) -> None:
    """From now on `cache_type=name` gives each request a cache of its own; `threshold` is the default."""
    STEP_CACHES[name], CACHE_THRESHOLDS[name] = make, threshold
