"""What torch keeps for a thread and a pipeline may change: autocast, grad mode, the global random generators.

Strands share one thread, so each keeps an `Ambient` of its own, put in place while it runs.
"""

import contextlib
import copy
from collections.abc import Hashable, Iterator

import torch

from interlace.engine.pipeline import randomness
from interlace.engine.pipeline.randomness import Randomness

_ACCELERATOR = torch.accelerator.current_accelerator()
_AUTOCAST_DEVICES = ("cpu", "cuda" if _ACCELERATOR is None else _ACCELERATOR.type)


class Ambient:
    """A strand's torch state, and the global random numbers as this strand alone would draw them."""

    __slots__ = ("_autocast", "_cache", "_grad", "random")

    def __init__(self, random: Randomness | int, *, grad: bool = False) -> None:
        """Takes autocast from the calling thread; random numbers are those given, or start from a seed."""
        self.random = Randomness(seed=random) if isinstance(random, int) else random
        self._grad = grad
        self._autocast = _autocast_state()
        self._cache = torch.is_autocast_cache_enabled()

    @property
    def key(self) -> Hashable:
        """What must be equal for requests to run as one; random numbers are each one's own."""
        return self._grad, self._autocast, self._cache

    def copy(self) -> "Ambient":
        """The same state, with random numbers that move by themselves."""
        new = copy.copy(self)
        new.random = self.random.copy()
        return new

    def install(self) -> None:
        """Make this the thread's state."""
        randomness.set_current(self.random)
        torch.set_grad_enabled(self._grad)
        if self._autocast != _autocast_state():
            for device, (enabled, dtype) in zip(_AUTOCAST_DEVICES, self._autocast, strict=True):
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self._cache)

    def capture(self) -> None:
        """Take over the thread's state."""
        randomness.set_current(None)
        self._grad = torch.is_grad_enabled()
        self._autocast = _autocast_state()
        self._cache = torch.is_autocast_cache_enabled()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Install, run the body, capture what the body left."""
        self.install()
        try:
            yield
        finally:
            self.capture()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Install for a body that is not this strand's alone, and capture nothing of it."""
        self.install()
        randomness.set_copy(self.random)
        try:
            yield
        finally:
            randomness.set_current(None)


def current_key() -> Hashable:
    """What of the thread's state must be equal for calls to share a forward."""
    return _autocast_state(), torch.is_autocast_cache_enabled()


def _autocast_state() -> tuple[tuple[bool, torch.dtype], ...]:
    enabled, dtype, (one, other) = torch.is_autocast_enabled, torch.get_autocast_dtype, _AUTOCAST_DEVICES
    return (enabled(one), dtype(one)), (enabled(other), dtype(other))  # written out: it is asked thrice a call


def eager(module: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within, compiled blocks of a module run uncompiled: what differs by the row is nothing that a compiled block
    would be guarded by."""
    compiled = any(part._compiled_call_impl is not None for part in module.modules())
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
