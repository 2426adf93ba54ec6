"""Bytes: what a forward takes while it runs, what a model's weights take, and what a device may give them.

On CUDA the allocator says it. Elsewhere it is an estimate: the tensors that a forward made and that lived at one time;
what kernels take for themselves is not in it.
"""

import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError
from interlace.units import parse_bytes, show_bytes

_CUDA_SHARE = 0.9  # of a CUDA device, unless a setting says another

_cuda_peaks: dict[int, int] = {}  # by device, before measurements began anew


class Footprint:
    """Measures what is allocated within it: `with Footprint(device) as footprint: ...`, then `footprint.bytes`."""

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0  # most at one time, over what was there before
        self._device = device
        self._live: _LiveBytes | None = None
        self._before = 0

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            index = torch.cuda.current_device() if self._device.index is None else self._device.index
            _cuda_peaks[index] = cuda_peak(index)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._live = _LiveBytes()
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is None:
            self.bytes = torch.cuda.max_memory_allocated(self._device) - self._before
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


def cuda_peak(index: int) -> int:
    """Most bytes that were ever allocated on a CUDA device, whatever was measured in between."""
    return max(_cuda_peaks.get(index, 0), torch.cuda.max_memory_allocated(index))


def weight_bytes(modules: Iterable[torch.nn.Module]) -> int:
    """Of parameters and buffers, each counted once."""
    sizes = {id(tensor): tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return sum(sizes.values())


def budget_of(modules: Iterable[torch.nn.Module], device: torch.device, config: EngineConfig) -> tuple[int | None, int]:
    """The bytes that are left for forwards (None: no limit), and those of the weights.

    Raises `InvalidRequestError` where the weights alone take all.
    """
    cuda = device.type == "cuda"
    weights = torch.cuda.memory_allocated(device) if cuda else weight_bytes(modules)
    share = config.memory_utilization or (_CUDA_SHARE if cuda else None)
    if config.memory_budget is not None:
        total = parse_bytes("memory_budget", config.memory_budget)
    elif share is not None:
        total = int(share * (torch.cuda.get_device_properties(device).total_memory if cuda else _main_memory()))
    else:
        return None, weights
    if total <= weights:
        raise InvalidRequestError(
            f"the model's weights take {show_bytes(weights)}, the memory budget is {show_bytes(total)}; raise it, or "
            "load a smaller dtype",
            "memory_budget",
        )
    return total - weights, weights


def _main_memory() -> int:
    """Bytes of this machine, or of the container that limits it."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return whole
