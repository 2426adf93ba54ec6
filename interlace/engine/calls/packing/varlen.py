"""Attention of rows of several lengths in one kernel, where the backend has one for that: flash-attn's and sage's take
the tokens of all rows one behind the other. Knows nothing of calls; untried on a GPU, checked with kernels that aren't.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models import attention_dispatch

from interlace.engine.device.host import on_device

# diffusers' name of a backend -> its kernel, and what that calls scale and causality
_KERNELS: dict[str, tuple[str, str, str]] = {
    "flash_varlen": ("flash_attn_varlen_func", "softmax_scale", "causal"),
    "_flash_varlen_3": ("flash_attn_3_varlen_func", "softmax_scale", "causal"),
    "sage_varlen": ("sageattn_varlen", "sm_scale", "is_causal"),
}


@dataclass(frozen=True, slots=True)
class OwnTokens:
    """Where the tokens of all rows are among the padded ones of [rows * total], and where each row's begin."""

    places: torch.Tensor
    bounds: torch.Tensor  # [rows + 1], int32
    longest: int

    @classmethod
    def of(cls, slices: Sequence[Sequence[slice]], total: int, device: torch.device) -> "OwnTokens":
        """`slices` of each row's own tokens among its `total`."""
        rows = [[i for part in own for i in range(part.start, part.stop)] for own in slices]
        bounds = [0]
        for row in rows:
            bounds.append(bounds[-1] + len(row))
        places = [number * total + i for number, row in enumerate(rows) for i in row]
        return cls(on_device(places, device), on_device(bounds, device, torch.int32), max(map(len, rows)))


def kernel_of(backend: str) -> Callable[..., torch.Tensor] | None:
    """A backend's attention over `OwnTokens`; None where it has no kernel for that, or the kernel isn't installed."""
    if backend not in _KERNELS:
        return None
    name, scaled, causal = _KERNELS[backend]
    kernel: Callable[..., Any] | None = getattr(attention_dispatch, name, None)
    if kernel is None:
        return None

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tokens: OwnTokens, scale: float | None
    ) -> torch.Tensor:
        own = [one.flatten(0, 1).index_select(0, tokens.places) for one in (query, key, value)]
        done = kernel(
            q=own[0],
            k=own[1],
            v=own[2],
            cu_seqlens_q=tokens.bounds,
            cu_seqlens_k=tokens.bounds,
            max_seqlen_q=tokens.longest,
            max_seqlen_k=tokens.longest,
            **{scaled: scale, causal: False},
        )
        output = query.new_zeros(len(query) * query.shape[1], *query.shape[2:-1], value.shape[-1])
        return output.index_copy_(0, tokens.places, done).unflatten(0, query.shape[:2])

    return attend
