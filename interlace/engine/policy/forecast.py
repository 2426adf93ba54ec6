"""Predicts how much work a request still is, in seconds alone, from its steps and what its forwards cost. No torch."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from interlace.engine.policy.cost import CostModel
from interlace.engine.policy.pending import DENOISE, Pending

_STEPS, _SIZE = 30, 1024  # where neither request nor pipeline says


class Forecast:
    """Learns seconds a step and pixel from running requests; good enough to order requests by their work."""

    def __init__(self, call: Callable[..., object], cost: CostModel) -> None:
        """`call` is the pipeline's own `__call__`, whose defaults count for requests that leave them out."""
        parameters = inspect.signature(call).parameters.values()
        self._defaults = {p.name: p.default for p in parameters if isinstance(p.default, (int, float))}
        self._cost = cost
        self._rate = 0.0  # seconds a step and pixel

    def waiting(self, kwargs: Mapping[str, object]) -> float:
        """Seconds of a request that has not started; in steps and megapixels until one was measured."""
        steps = float(self._value(kwargs, "num_inference_steps", _STEPS))
        return steps * self._pixels(kwargs) * (self._rate or 1e-6)

    def running(
        self, kwargs: Mapping[str, object], pending: Pending, done: int, num_steps: int, forwards: int
    ) -> float:
        """Seconds left of a request that has done so many of its steps in so many denoising forwards."""
        left = (num_steps or int(self._value(kwargs, "num_inference_steps", _STEPS))) - done
        seconds = self._cost.seconds(pending.shape, pending.rows) if pending.stage == DENOISE else None
        if seconds is None:
            return left * self._pixels(kwargs) * (self._rate or 1e-6)
        per_step = seconds * (forwards / done if done else 1)
        rate = per_step / self._pixels(kwargs)
        self._rate = 0.9 * self._rate + 0.1 * rate if self._rate else rate
        return left * per_step

    def _value(self, kwargs: Mapping[str, Any], name: str, default: float) -> float:
        value = kwargs.get(name)
        value = self._defaults.get(name) if not isinstance(value, (int, float)) else value
        return default if value is None else value

    def _pixels(self, kwargs: Mapping[str, Any]) -> float:
        return max(self._value(kwargs, "height", _SIZE) * self._value(kwargs, "width", _SIZE), 1.0)
