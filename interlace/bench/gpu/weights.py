"""Random weights made where they are used: skeletons first, then each parameter on its device in its own precision."""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from accelerate import init_empty_weights

M = TypeVar("M", bound=torch.nn.Module)
_BIAS = 0.02  # standard deviation


def random_module(
    kind: type[M], config: Mapping[str, object], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> M:
    """`kind(**config)` in evaluation mode. Matrices keep the size of what they multiply, norms begin as none.

    Nothing is made on the CPU first: 20 billion parameters take as long as the device takes to fill them.
    """
    with torch.device(device), init_empty_weights(include_buffers=False):  # positional tables too are made there
        module = kind(**config)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, skeleton in part._parameters.items():
                if skeleton is not None:
                    values = torch.empty(skeleton.shape, device=device, dtype=dtype)
                    _fill(values, name, generator)
                    part._parameters[name] = torch.nn.Parameter(values, requires_grad=False)
    torch.nn.Module.to(module, device, dtype)  # buffers, too; diffusers' own would warn of parts to keep in float32
    return module.eval()


def _fill(values: torch.Tensor, name: str, generator: torch.Generator) -> None:
    if values.dim() >= 2:
        values.normal_(0.0, 1 / math.sqrt(values[0].numel()), generator=generator)
    elif name == "weight":
        values.fill_(1.0)
    else:
        values.normal_(0.0, _BIAS, generator=generator)
