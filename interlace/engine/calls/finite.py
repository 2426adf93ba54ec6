"""NaN and Inf in what a request came to: looked for on the device at once, read when it has come that far."""

import torch

from interlace.engine.calls.fuse import tensors
from interlace.engine.device.host import Flag
from interlace.errors import NonFiniteOutputError


def finite(value: object) -> Flag:
    """Whether all numbers in a nested value are finite; those of a kind that can't be asked are."""
    try:
        return Flag(torch.isfinite(one).all() for one in tensors(value) if _can_be_asked(one))
    except Exception:
        return made(value)


def made(value: object) -> Flag:
    """Holds; known once the device has made all tensors in a nested value."""
    return Flag(behind={one.device for one in tensors(value)})


def _can_be_asked(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.device.type != "meta"


def not_finite(request_id: str) -> NonFiniteOutputError:
    """The error for a request in whose output they are."""
    return NonFiniteOutputError(
        f"the model gave NaN or Inf for request {request_id}; try another dtype (bfloat16 or float32), "
        "seed or guidance scale"
    )
