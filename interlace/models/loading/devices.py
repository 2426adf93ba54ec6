"""Devices by name: those that torch sees, and what to say of others."""

import torch

from interlace.engine.accelerator import module_of
from interlace.errors import InvalidRequestError


def check_device(device: str) -> None:
    """Raises `InvalidRequestError` for a device that torch does not know or see, with what there is."""
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise InvalidRequestError(f"device is {device!r}; expected cpu, cuda, cuda:1, mps or xpu", "device") from None
    if kind.type in ("cpu", "meta"):
        return
    module = module_of(kind)
    if module is None or not module.is_available():
        why = "this torch was built without CUDA" if _no_cuda(kind) else f"torch sees no {_named(kind)} here"
        raise InvalidRequestError(f"device is {device!r}, but {why}; leave it out to use the CPU", "device")
    if (kind.index or 0) >= (count := module.device_count()):
        text = f"device is {device!r}, but there are {count} {_named(kind)}s, from {kind.type}:0 on"
        raise InvalidRequestError(text, "device")


def _no_cuda(kind: torch.device) -> bool:
    return kind.type == "cuda" and torch.version.cuda is None


def _named(kind: torch.device) -> str:
    return {"cuda": "NVIDIA GPU", "mps": "Apple GPU", "xpu": "Intel GPU"}.get(kind.type, f"{kind.type} device")
