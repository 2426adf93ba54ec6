"""Modules that are made on `meta`, without storage, before their weights are read from files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = (init.normal_, init.uniform_, init.kaiming_uniform_)


class NoDetours(TorchFunctionMode):
    """Within this, first values aren't drawn on `meta`, where nothing keeps them, and what is to be like something
    there is made from its shape. torch does both in Python, operation by operation, and imports sympy for it."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        named = dict(kwargs or {})
        if func in _DRAWS and named["tensor"].is_meta:
            return named["tensor"]
        if func is torch.empty_like and len(args) == 1 and named.keys() <= {"device", "dtype"}:
            like = args[0]
            if type(like) is torch.Tensor and like.is_meta and like.is_contiguous():
                return torch.empty(like.shape, **{"device": like.device, "dtype": like.dtype, **named})
        return func(*args, **named)
