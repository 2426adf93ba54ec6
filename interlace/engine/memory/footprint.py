"""Bytes: what a forward takes while it runs, what a model's weights take, and what a device may give them.

On CUDA and XPU the allocator says it. Elsewhere it is an estimate: the tensors that a forward made and that lived at
one time; what kernels take for themselves is not in it.
"""

import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interlace.config import EngineConfig
from interlace.engine import accelerator
from interlace.errors import InvalidRequestError
from interlace.units import parse_bytes, show_bytes

_DEVICE_SHARE = 0.9  # of a device whose allocator counts, unless a setting says another

_peaks: dict[torch.device, int] = {}  # before measurements began anew


class Footprint:
    """Measures what is allocated within it: `with Footprint(device) as footprint: ...`, then `footprint.bytes`."""

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0  # most at one time, over what was there before
        self._device = device
        self._live: _LiveBytes | None = None
        self._before = 0

    def __enter__(self) -> Self:
        if accelerator.counts_memory(self._device):
            device = accelerator.numbered(self._device)
            _peaks[device] = device_peak(device)
            accelerator.module_of(device).reset_peak_memory_stats(device)
            self._before = accelerator.allocated(device)
        else:
            self._live = _LiveBytes()
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is None:
            self.bytes = accelerator.module_of(self._device).max_memory_allocated(self._device) - self._before
        else:
            self._live.__exit__(*error)
            self.bytes = self._live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, from their birth to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in given and key not in self._known:
                self._known.add(key)
                self._now += size
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._end, key, size).atexit = False
        return result

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def device_peak(device: torch.device) -> int:
    """Most bytes that were ever allocated on a device that counts, whatever was measured in between."""
    return max(_peaks.get(device, 0), int(accelerator.module_of(device).max_memory_allocated(device)))


def weight_bytes(modules: Iterable[torch.nn.Module]) -> int:
    """Of parameters and buffers, each counted once."""
    sizes = {id(tensor): tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return sum(sizes.values())


def budget_of(modules: Iterable[torch.nn.Module], device: torch.device, config: EngineConfig) -> tuple[int | None, int]:
    """The bytes that are left for forwards (None: no limit), and those of the weights.

    Raises `InvalidRequestError` where the weights alone take all.
    """
    weights = accelerator.allocated(device) if accelerator.counts_memory(device) else weight_bytes(modules)
    if config.memory_budget is not None:
        total: int | None = parse_bytes("memory_budget", config.memory_budget)
    else:
        total = device_bytes(device, config.memory_utilization)
    if total is None:
        return None, weights
    if total <= weights:
        raise InvalidRequestError(
            f"the model's weights take {show_bytes(weights)}, the memory budget is {show_bytes(total)}; raise it, or "
            "load a smaller dtype",
            "memory_budget",
        )
    return total - weights, weights


def device_bytes(device: torch.device, share: float | None = None) -> int | None:
    """The bytes of a share of a device; without one, of the usual share where the allocator counts, else None: any."""
    share = share or (_DEVICE_SHARE if accelerator.counts_memory(device) else None)
    return None if share is None else int(share * (accelerator.total_memory(device) or _main_memory()))


def _main_memory() -> int:
    """Bytes of this machine, or of the container that limits it."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return whole
