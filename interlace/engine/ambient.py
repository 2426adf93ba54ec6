"""What torch keeps for a thread and a pipeline may change: autocast, grad mode, the global random generators.

Strands share one thread, so each keeps an `Ambient` of its own, put in place while it runs.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

_AUTOCAST_DEVICES = ("cpu", "cuda")


class Ambient:
    """A strand's torch state, and the global random generators' state as this strand alone would have it."""

    __slots__ = ("_autocast", "_cache", "_device_rng", "_grad", "_rng")

    def __init__(self, seed: int, *, grad: bool = False) -> None:
        """Takes autocast from the calling thread; both random generators start from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        self._rng = generator.get_state()
        self._device_rng: torch.Tensor | None = None
        if torch.cuda.is_available():
            self._device_rng = torch.Generator("cuda").manual_seed(seed).get_state()
        self._grad = grad
        self._autocast = _autocast_state()
        self._cache = torch.is_autocast_cache_enabled()

    def install(self) -> None:
        """Make this the thread's state."""
        torch.set_rng_state(self._rng)
        if self._device_rng is not None:
            torch.cuda.set_rng_state(self._device_rng)
        torch.set_grad_enabled(self._grad)
        if self._autocast != _autocast_state():
            for device, (enabled, dtype) in zip(_AUTOCAST_DEVICES, self._autocast, strict=True):
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self._cache)

    def capture(self) -> None:
        """Take over the thread's state."""
        self._rng = torch.get_rng_state()
        if self._device_rng is not None:
            self._device_rng = torch.cuda.get_rng_state()
        self._grad = torch.is_grad_enabled()
        self._autocast = _autocast_state()
        self._cache = torch.is_autocast_cache_enabled()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install, run the body, capture what the body left."""
        self.install()
        try:
            yield
        finally:
            self.capture()


def current_key() -> Hashable:
    """What of the thread's state must be equal for calls to share a forward."""
    return _autocast_state(), torch.is_autocast_cache_enabled()


def _autocast_state() -> tuple[tuple[bool, torch.dtype], ...]:
    enabled, dtype, (one, other) = torch.is_autocast_enabled, torch.get_autocast_dtype, _AUTOCAST_DEVICES
    return (enabled(one), dtype(one)), (enabled(other), dtype(other))  # written out: it is asked thrice a call
