"""One forward for rows of different lengths: padded at the end, rotary tables and attention by the row.

Attention goes through diffusers' dispatcher, where each backend is wrapped once: inside `rows_of` it attends each row
within its own length, so padding is never seen and costs no attention. Outside it does what it always did.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from interlace.engine.call import ModuleCall
from interlace.models.packers import PACKINGS

_state = threading.local()  # .lengths: of the rows of this thread's forward, text and image; None outside


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
def rows_of(calls: Sequence[ModuleCall]) -> Iterator[None]:
    """A forward of `calls`, fused: each row has its call's length and positions."""
    _wrap_backends()
    module = calls[0].target.module
    packing = PACKINGS[type(module).__name__]
    pos_embed: Any = module.pos_embed
    named = [call.named for call in calls]
    num_text = max(arguments[packing.text].shape[1] for arguments in named)
    own = [packing.tables(pos_embed.forward, arguments, num_text) for arguments in named]
    tables = tuple(_RowTable(_stacked(column, calls)) for column in zip(*own, strict=True))
    counts = [call.rows for call in calls]
    lengths = [num_text + arguments[packing.tokens].shape[1] for arguments in named]
    _state.lengths = [length for length, count in zip(lengths, counts, strict=True) for _ in range(count)]
    pos_embed.__dict__["forward"] = lambda *args, **kwargs: tables
    try:
        yield
    finally:
        _state.lengths = None
        pos_embed.__dict__.pop("forward", None)


def _stacked(tables: Sequence[torch.Tensor], calls: Sequence[ModuleCall]) -> torch.Tensor:
    """Each call's [tokens, channels] for each of its rows, padded to the longest: [rows, tokens, channels]."""
    longest = max(len(table) for table in tables)
    padded = [torch.nn.functional.pad(table, (0, 0, 0, longest - len(table))) for table in tables]
    counts = torch.tensor([call.rows for call in calls], device=tables[0].device)
    return torch.stack(padded).repeat_interleave(counts, dim=0)


def _wrap_backends() -> None:
    backends = _AttentionBackendRegistry._backends
    for name, backend in list(backends.items()):
        if not getattr(backend, "by_row_length", False):
            backends[name] = _by_row_length(backend)


def _by_row_length(backend: Callable[..., Any]) -> Callable[..., Any]:
    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **rest: Any) -> Any:
        lengths: list[int] | None = getattr(_state, "lengths", None)
        if lengths is None or query.shape[1] != max(lengths) or len(query) != len(lengths):
            return backend(query=query, key=key, value=value, **rest)
        output = query.new_zeros(*query.shape[:-1], value.shape[-1])
        mask = rest.pop("attn_mask", None)
        for length in sorted(set(lengths)):
            rows = torch.tensor([i for i, n in enumerate(lengths) if n == length], device=query.device)
            parts = [tensor.index_select(0, rows)[:, :length] for tensor in (query, key, value)]
            own = None if mask is None else mask.expand(len(query), *mask.shape[1:]).index_select(0, rows)[..., :length]
            output[rows, :length] = backend(
                query=parts[0], key=parts[1], value=parts[2], **({} if own is None else {"attn_mask": own}), **rest
            )
        return output

    attend.by_row_length = True  # type: ignore[attr-defined]
    return attend
