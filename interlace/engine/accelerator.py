"""The device that a model is on, by its type: memory, waiting for it, random state, its name. CUDA, XPU, MPS, others.

Torch has a module for each type (`torch.cuda`, `torch.xpu`, `torch.mps`), with the same names where it can do the same.
"""

from collections.abc import Iterator
from typing import Any

import torch

_COUNTING = ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats")


def default_device() -> str:
    """This machine's accelerator (cuda, xpu, mps, ...) by its type, or cpu."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def module_of(device: torch.device) -> Any:
    """Torch's module for its type; None for the CPU and what has none (meta)."""
    if device.type == "cpu":
        return None
    try:
        return torch.get_device_module(device.type)
    except RuntimeError:
        return None


def counts_memory(device: torch.device) -> bool:
    """Whether its allocator says how much was allocated at most."""
    module = module_of(device)
    return all(hasattr(module, name) for name in _COUNTING)


def allocated(device: torch.device) -> int:
    """Bytes that are allocated now, where `counts_memory`."""
    return int(module_of(device).memory_allocated(device))


def total_memory(device: torch.device) -> int | None:
    """Bytes that it has; None where it doesn't say (MPS says what it recommends)."""
    module = module_of(device)
    if hasattr(module, "get_device_properties"):
        return int(module.get_device_properties(device).total_memory)
    if hasattr(module, "recommended_max_memory"):
        return int(module.recommended_max_memory())
    return None


def name_of(device: torch.device) -> str:
    """What it is called, or its type where it has no name."""
    module = module_of(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else str(device)


def numbered(device: torch.device) -> torch.device:
    """With its number: `cuda` is whichever is current."""
    module = module_of(device)
    if device.index is not None or module is None:
        return device
    current = module.current_device() if hasattr(module, "current_device") else 0
    return torch.device(device.type, current)


def synchronize(device: torch.device | None = None) -> None:
    """Wait for a device, or for this machine's accelerator, if it has one."""
    if device is None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
    elif (module := module_of(device)) is not None:
        module.synchronize() if device.type == "mps" else module.synchronize(device)


def empty_cache() -> None:
    """Give memory that nobody holds back to the accelerator, if there is one."""
    if torch.accelerator.is_available():
        torch.get_device_module(default_device()).empty_cache()


def states() -> Iterator[tuple[torch.device, Any]]:
    """Every accelerator that has been used, with the function that gives its random state."""
    if not torch.accelerator.is_available():
        return
    kind = default_device()
    module = torch.get_device_module(kind)
    if hasattr(module, "is_initialized") and not module.is_initialized():
        return
    read = (lambda _: module.get_rng_state()) if kind == "mps" else module.get_rng_state
    for index in range(module.device_count()):
        yield torch.device(kind, index), read
