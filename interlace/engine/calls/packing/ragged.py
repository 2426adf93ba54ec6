"""One forward for rows of different lengths: padded at the end, positions and attention by the row.

Attention goes through diffusers' dispatcher, where each backend is wrapped once, or straight to torch's, which is
caught on the way: inside `rows_of` it attends each row within its own length, so padding is never seen and costs no
attention. Outside it does what it always did, and so it does in the parts of a denoiser that attend to texts only.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import nn
from torch.overrides import TorchFunctionMode

from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import pad
from interlace.engine.calls.packing.packers import Packing, packing_of, patches
from interlace.engine.calls.packing.positions import KnownTables, given, wraps
from interlace.engine.calls.packing.varlen import OwnTokens, kernel_of
from interlace.engine.device.host import on_device
from interlace.engine.pipeline.ambient import eager

_state = threading.local()  # .rows: of this thread's forward; None outside


class _RaggedRows(NamedTuple):
    """How long the rows of a forward are."""

    lengths: list[int]  # image tokens of each row
    num_text: int
    text_first: bool
    of_length: dict[int, torch.Tensor]  # the rows of each length, on the device: made once for all layers
    packed: dict[int, OwnTokens]  # of all rows, by their padded length: for kernels that take rows of several lengths

    def places(self, total: int, length: int) -> list[slice] | None:
        """Where a row's own tokens are among `total` padded ones; None for attention over something else."""
        longest = max(self.lengths)
        if self.text_first:
            return [slice(0, self.num_text + length)] if total == self.num_text + longest else None
        image = slice(0, length)
        if total == longest:
            return [image]
        return [image, slice(longest, total)] if total == longest + self.num_text else None

    def own_tokens(self, total: int, device: torch.device) -> OwnTokens:
        """Those of each row among `total` padded ones."""
        if total not in self.packed:
            self.packed[total] = OwnTokens.of([self.places(total, own) or [] for own in self.lengths], total, device)
        return self.packed[total]


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
    packing = packing_of(module)
    assert packing is not None
    embed: Any = module.get_submodule(packing.embed)
    named = [call.named for call in calls]
    num_text = max(arguments[packing.text].shape[1] for arguments in named)
    if packing.tables is None:
        positions: Any = torch.cat(pad([embed(arguments[packing.tokens]) for arguments in named]))
    else:
        own = [known.of(call, packing, num_text) for call in calls]
        positions = tuple(_by_row(column, calls) for column in zip(*own, strict=True))
    lengths = [length for call in calls for length in [_length(call, packing)] * call.rows]
    device = named[0][packing.tokens].device
    of_length = {
        length: on_device([row for row, own in enumerate(lengths) if own == length], device) for length in set(lengths)
    }
    _state.rows = _RaggedRows(lengths, num_text, packing.text_first, of_length, {})
    _wrap_backends()
    attention = contextlib.nullcontext() if packing.dispatched else _TorchAttention()
    try:
        with given(embed, positions), eager(module), attention, _as_ever(packing.aside(module)):
            yield
    finally:
        _state.rows = None


def _length(call: ModuleCall, packing: Packing) -> int:
    """Image tokens in each row of a call."""
    tokens = call.named[packing.tokens]
    if not packing.whole:
        return int(tokens.shape[1])
    sides = patches(call.target.module, tokens)
    return math.prod(size // side for size, side in zip(tokens.shape[2:], sides, strict=True))


@contextlib.contextmanager
def _as_ever(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Attention inside of `parts` is what it always was: a text may happen to be as long as the padded tokens are.

    Forwards of other threads pass the same hooks, and are left alone.
    """
    thread, rows = threading.get_ident(), _state.rows

    def enter(part: nn.Module, args: object) -> None:
        if threading.get_ident() == thread:
            _state.rows = None

    def leave(part: nn.Module, args: object, output: object) -> None:
        if threading.get_ident() == thread:
            _state.rows = rows

    hooks = [hook for one in parts for hook in (one.register_forward_pre_hook(enter), one.register_forward_hook(leave))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _by_row(tables: Sequence[torch.Tensor], calls: Sequence[ModuleCall]) -> Any:
    """Each call's table for each of its rows, padded to the longest: as code reads it that has one for all rows."""
    if tables[0].ndim == 2:  # [tokens, channels]
        return _RowTable(_by_row([table[None] for table in tables], calls))
    rows = [table.expand(call.rows, *table.shape[1:]) for table, call in zip(tables, calls, strict=True)]
    return torch.cat(pad(rows))  # [rows, tokens, ...]


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
    own, keys, values = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(own, keys, values, **rest).transpose(1, 2)


def _wrap_backends() -> None:
    backends = _AttentionBackendRegistry._backends
    for name, backend in list(backends.items()):
        if not getattr(backend, "by_row_length", False):
            wraps.replace_item(backends, name, _by_row_length(backend, kernel_of(name.value)))


def _by_row_length(backend: Callable[..., Any], kernel: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """`backend` for each length of the rows in turn, or for all at once where there is a `kernel` for that."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **rest: Any) -> Any:
        now: _RaggedRows | None = getattr(_state, "rows", None)
        if now is None or len(query) != len(now.lengths) or now.places(query.shape[1], 0) is None:
            return backend(query=query, key=key, value=value, **rest)
        mask = rest.pop("attn_mask", None)
        if kernel is not None and mask is None and not rest.get("is_causal") and not rest.get("return_lse"):
            return kernel(query, key, value, now.own_tokens(query.shape[1], query.device), rest.get("scale"))
        output = query.new_zeros(*query.shape[:-1], value.shape[-1])
        for length in sorted(now.of_length):
            rows = now.of_length[length]
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
