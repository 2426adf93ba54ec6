"""Rotary embedding of queries and keys on a CPU: diffusers' own numbers, to the bit, in one pass and not in five.

diffusers swaps the numbers of each pair, multiplies twice and adds. Here a pair is one complex number, multiplied once.
For tensors of a kind both are computed and compared the first times; a kind that differs in a bit stays diffusers'.
"""

import sys
import threading
from collections.abc import Hashable
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb

from interlace.python.recent import Recent
from interlace.python.wraps import Wraps

_MOST = 256  # kinds of tensors that are remembered
_TIMES = 8  # a kind must come out equal: where few numbers round otherwise, once may be chance
_WIDTH = 16  # channels of a head must fill whole vectors: what is left over is rounded otherwise
_DIFFERS = -1
_proven: Recent[Hashable, int] = Recent(_MOST)  # how often a kind came out equal, up to _TIMES
_lock = threading.Lock()
_state = threading.local()  # .last: what was asked for, and both as complex numbers: all blocks ask for the same


def rotate_in_one_pass(denoiser: torch.nn.Module, wraps: Wraps) -> None:
    """The blocks of a denoiser's kind call `rotated` until `wraps` is closed; compiled ones are left as they are."""
    home = sys.modules.get(type(denoiser).__module__)
    if home is None or vars(home).get("apply_rotary_emb") is not apply_rotary_emb:
        return
    if not any(part._compiled_call_impl is not None for part in denoiser.modules()):
        wraps.replace(home, "apply_rotary_emb", rotated)


def rotated(
    x: torch.Tensor, freqs_cis: Any, use_real: bool = True, use_real_unbind_dim: int = -1, sequence_dim: int = 2
) -> torch.Tensor:
    """As diffusers' `apply_rotary_emb`."""
    usual = use_real and use_real_unbind_dim == -1 and sequence_dim in (1, 2)
    if torch.compiler.is_compiling() or not usual or not _is_plain(x):
        return apply_rotary_emb(x, freqs_cis, use_real, use_real_unbind_dim, sequence_dim)
    cos, sin = freqs_cis
    turns = _as_turns(cos, sin, sequence_dim)
    kind = x.shape, x.stride(), x.dtype, turns.shape
    if (proven := _proven.get(kind, 0)) >= _TIMES:
        return _turned(x, turns)
    stock = apply_rotary_emb(x, freqs_cis, sequence_dim=sequence_dim)
    if proven != _DIFFERS:
        equal = turns.numel() > 0 and torch.equal(stock, _turned(x, turns))
        with _lock:
            _proven[kind] = proven + 1 if equal else _DIFFERS
    return stock


def _is_plain(x: torch.Tensor) -> bool:
    whole = x.ndim == 4 and x.shape[-1] % _WIDTH == 0 and x.stride(-1) == 1
    pairs = whole and not any(step % 2 for step in (*x.stride()[:-1], x.storage_offset()))
    return pairs and x.device.type == "cpu" and x.dtype is torch.float32 and not x.requires_grad


def _as_turns(cos: Any, sin: Any, sequence_dim: int) -> torch.Tensor:
    """[1 or rows, 1, tokens, pairs] or [1 or rows, tokens, 1, pairs]; empty where a pair has two angles."""
    asked = cos, sin, _written(cos), _written(sin), sequence_dim
    known: tuple[Any, ...] = getattr(_state, "last", ())
    if known and known[0] is cos and known[1] is sin and known[2:5] == asked[2:]:
        turns: torch.Tensor = known[5]
        return turns
    place = (None, slice(None), None, slice(None)) if sequence_dim == 1 else (None, None)
    real, imaginary = cos[place], sin[place]
    plain = all(one.dtype is torch.float32 and one.device.type == "cpu" for one in (real, imaginary))
    pairs = plain and all(torch.equal(one[..., ::2], one[..., 1::2]) for one in (real, imaginary))
    turns = torch.complex(real[..., ::2].contiguous(), imaginary[..., ::2].contiguous()) if pairs else torch.empty(0)
    _state.last = (*asked, turns)
    return turns


def _written(table: Any) -> int:
    """Grows with every change in place; tables for each row are never changed."""
    return table._version if isinstance(table, torch.Tensor) and not table.is_inference() else 0


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)
