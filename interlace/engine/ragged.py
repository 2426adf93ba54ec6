"""One forward for rows of different lengths: padded at the end, positions and attention by the row.

Attention goes through diffusers' dispatcher, where each backend is wrapped once, or straight to torch's, which is
caught on the way: inside `rows_of` it attends each row within its own length, so padding is never seen and costs no
attention. Outside it does what it always did.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch.overrides import TorchFunctionMode

from interlace.engine.call import ModuleCall
from interlace.engine.fuse import pad
from interlace.engine.positions import KnownTables, given
from interlace.models.packers import PACKINGS

_state = threading.local()  # .rows: of this thread's forward; None outside


class _Rows(NamedTuple):
    """How long the rows of a forward are."""

    lengths: list[int]  # image tokens of each row
    num_text: int
    text_first: bool

    def places(self, total: int, length: int) -> list[slice] | None:
        """Where a row's own tokens are among `total` padded ones; None for attention over something else."""
        longest = max(self.lengths)
        if self.text_first:
            return [slice(0, self.num_text + length)] if total == self.num_text + longest else None
        image = slice(0, length)
        if total == longest:
            return [image]
        return [image, slice(longest, total)] if total == longest + self.num_text else None


class _RowTable:
    """A rotary table for each row, [rows, tokens, channels], for code that broadcasts one over all rows."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows

    def __getitem__(self, index: Any) -> torch.Tensor:
        """`table[None, :, None, :]` of [tokens, channels]: to [rows, tokens, heads, channels]."""
        if index != (None, slice(None), None, slice(None)):
            raise TypeError(f"rotary tables by row can't be indexed with {index}")
        return self._rows[:, :, None, :]

    def unsqueeze(self, dim: int) -> torch.Tensor:
        """`table.unsqueeze(1)` of [tokens, channels]: to [rows, tokens, heads, channels]."""
        if dim != 1:
            raise TypeError(f"rotary tables by row can't be unsqueezed at {dim}")
        return self._rows[:, :, None, :]


@contextlib.contextmanager
def rows_of(calls: Sequence[ModuleCall], known: KnownTables) -> Iterator[None]:
    """A forward of `calls`, fused: each row has its call's length and positions."""
    module = calls[0].target.module
    packing = PACKINGS[type(module).__name__]
    pos_embed: Any = module.pos_embed
    named = [call.named for call in calls]
    num_text = max(arguments[packing.text].shape[1] for arguments in named)
    if packing.tables is None:
        tokens = [pos_embed(arguments[packing.tokens]) for arguments in named]
        positions: Any = torch.cat(pad(tokens))
    else:
        tokens = [arguments[packing.tokens] for arguments in named]
        own = [known.of(call, packing, num_text) for call in calls]
        positions = tuple(_RowTable(_stacked(column, calls)) for column in zip(*own, strict=True))
    lengths = [value.shape[1] for value, call in zip(tokens, calls, strict=True) for _ in range(call.rows)]
    _state.rows = _Rows(lengths, num_text, packing.text_first)
    _wrap_backends()
    attention = contextlib.nullcontext() if packing.dispatched else _TorchAttention()
    try:
        with given(pos_embed, positions), _eager(module), attention:
            yield
    finally:
        _state.rows = None


def _eager(module: torch.nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Compiled blocks run uncompiled: rows' lengths are nothing that a compiled block would be guarded by."""
    compiled = any(part._compiled_call_impl is not None for part in module.modules())
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()


def _stacked(tables: Sequence[torch.Tensor], calls: Sequence[ModuleCall]) -> torch.Tensor:
    """Each call's [tokens, channels] for each of its rows, padded to the longest: [rows, tokens, channels]."""
    counts = torch.tensor([call.rows for call in calls], device=tables[0].device)
    return torch.cat(pad([table[None] for table in tables])).repeat_interleave(counts, dim=0)


class _TorchAttention(TorchFunctionMode):
    """Catches torch's attention: [rows, heads, tokens, channels]."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func(*args, **kwargs)`, by row length where it is attention."""
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (tensor.transpose(1, 2) for tensor in args[:3])
        named = dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False)) | kwargs
        return _by_row_length(_transposed)(query=query, key=key, value=value, **named).transpose(1, 2)


def _transposed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **rest: Any) -> torch.Tensor:
    """Torch's attention as diffusers' backends have it: [rows, tokens, heads, channels]."""
    parts = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(*parts, **rest).transpose(1, 2)


def _wrap_backends() -> None:
    backends = _AttentionBackendRegistry._backends
    for name, backend in list(backends.items()):
        if not getattr(backend, "by_row_length", False):
            backends[name] = _by_row_length(backend)


def _by_row_length(backend: Callable[..., Any]) -> Callable[..., Any]:
    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **rest: Any) -> Any:
        now: _Rows | None = getattr(_state, "rows", None)
        if now is None or len(query) != len(now.lengths) or now.places(query.shape[1], 0) is None:
            return backend(query=query, key=key, value=value, **rest)
        output = query.new_zeros(*query.shape[:-1], value.shape[-1])
        mask = rest.pop("attn_mask", None)
        for length in sorted(set(now.lengths)):
            rows = torch.tensor([i for i, n in enumerate(now.lengths) if n == length], device=query.device)
            places = now.places(query.shape[1], length) or []
            own = [_cut(tensor.index_select(0, rows), places, 1) for tensor in (query, key, value)]
            if mask is not None:
                of_rows = mask.expand(len(query), *mask.shape[1:]).index_select(0, rows)
                rest["attn_mask"] = _cut(of_rows, places, -1)
            done = backend(query=own[0], key=own[1], value=own[2], **rest)
            for place, part in zip(places, done.split([p.stop - p.start for p in places], dim=1), strict=True):
                output[rows, place] = part
        return output

    attend.by_row_length = True  # type: ignore[attr-defined]
    return attend


def _cut(tensor: torch.Tensor, places: Sequence[slice], dim: int) -> torch.Tensor:
    parts = [tensor.narrow(dim, place.start, place.stop - place.start) for place in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
