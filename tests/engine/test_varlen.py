"""Attention of rows of several lengths in one kernel, by a stand-in for the kernels that need a GPU."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch

from interlace.engine.calls.packing import ragged
from interlace.engine.calls.packing.varlen import kernel_of

LENGTHS, TEXT = [5, 3, 5], 2


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Any = None) -> torch.Tensor:
    """[rows, tokens, heads, channels]."""
    parts = [one.transpose(1, 2) for one in (query, key, value)]
    return F.scaled_dot_product_attention(*parts, scale=scale).transpose(1, 2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """flash-attn's interface; how many rows each call of it had."""
    seen: list[int] = []

    def flash_attn_varlen_func(**given: Any) -> torch.Tensor:
        bounds = given["cu_seqlens_q"].tolist()
        assert given["max_seqlen_q"] == max(b - a for a, b in pairwise(bounds))
        seen.append(len(bounds) - 1)
        rows = [[given[name][a:b][None] for name in "qkv"] for a, b in pairwise(bounds)]
        return torch.cat([attention(*row, scale=given["softmax_scale"])[0] for row in rows])

    monkeypatch.setattr(attention_dispatch, "flash_attn_varlen_func", flash_attn_varlen_func)
    return seen


@pytest.fixture
def rows() -> Iterator[None]:
    of_length = {n: torch.tensor([i for i, own in enumerate(LENGTHS) if own == n]) for n in set(LENGTHS)}
    ragged._state.rows = ragged._RaggedRows(LENGTHS, TEXT, True, of_length, {})
    yield
    ragged._state.rows = None


def test_one_kernel_for_all_lengths_gives_what_one_call_for_each_gives(calls: list[int], rows: None) -> None:
    total = TEXT + max(LENGTHS)
    query, key, value = (torch.randn(3, total, 2, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    together = ragged._by_row_length(attention, kernel_of("flash_varlen"))
    one_by_one = ragged._by_row_length(attention)
    expected = one_by_one(query=query, key=key, value=value, scale=0.3)
    assert torch.allclose(together(query=query, key=key, value=value, scale=0.3), expected, atol=1e-6)
    assert calls == [3], "one kernel for three rows"


def test_backends_without_such_a_kernel_are_called_for_each_length() -> None:
    assert kernel_of("native") is None
    assert kernel_of("flash_varlen") is None, "flash-attn isn't installed here"
