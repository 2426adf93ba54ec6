"""Rotary embedding in one pass: diffusers' bits, for the forwards of an engine, and nothing of it after."""

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers import transformer_flux

from interlace import Engine
from interlace.engine.calls.packing import rotary
from interlace.engine.calls.packing.ragged import _RowTable
from tests.zoo import FAMILIES


@pytest.fixture(autouse=True)
def nothing_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    rotary._proven.clear()
    rotary._state.__dict__.clear()


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The tensors that were turned in one pass."""
    told: list[torch.Size] = []
    stock = rotary._turned
    monkeypatch.setattr(rotary, "_turned", lambda x, turns: (told.append(x.shape), stock(x, turns))[1])
    return told


def table(tokens: int, channels: int, *rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = (torch.rand(*rows, tokens, channels // 2) * 6).repeat_interleave(2, -1)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(
    ("rows", "tokens", "heads", "channels"), [(1, 1, 1, 2), (3, 7, 2, 24), (1, 3, 1, 16), (8, 40, 8, 32)]
)
def test_it_is_diffusers_to_the_bit(dim: int, rows: int, tokens: int, heads: int, channels: int) -> None:
    freqs = table(tokens, channels)
    shape = (rows, tokens, heads, channels) if dim == 1 else (rows, heads, tokens, channels)
    for _ in range(rotary._TIMES + 3):
        x = torch.randn(shape)
        assert torch.equal(rotary.rotated(x, freqs, sequence_dim=dim), apply_rotary_emb(x, freqs, sequence_dim=dim))
    across = torch.randn(rows, heads, tokens, channels).transpose(1, 2) if dim == 1 else torch.randn(shape)
    for _ in range(rotary._TIMES + 1):
        told = rotary.rotated(across, freqs, sequence_dim=dim)
        assert torch.equal(told, apply_rotary_emb(across, freqs, sequence_dim=dim))


def test_a_table_that_is_changed_in_place_is_read_again(turned: list[torch.Size]) -> None:
    freqs, x = table(5, 16), torch.randn(2, 5, 3, 16)
    for turn in range(2 * rotary._TIMES + 2):
        if turn == rotary._TIMES + 1:
            for one in freqs:
                one.neg_()
        told = rotary.rotated(x, freqs, sequence_dim=1)
        assert torch.equal(told, apply_rotary_emb(x, freqs, sequence_dim=1))
    assert turned


def test_a_table_for_each_row(turned: list[torch.Size]) -> None:
    freqs = tuple(map(_RowTable, table(5, 16, 2)))
    x = torch.randn(2, 5, 3, 16)
    for _ in range(rotary._TIMES + 1):
        told = rotary.rotated(x, freqs, sequence_dim=1)
        assert torch.equal(told, apply_rotary_emb(x, freqs, sequence_dim=1))  # type: ignore[arg-type]
    assert len(turned) == rotary._TIMES + 1


def test_what_differs_stays_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotary, "_turned", lambda x, turns: x + 1)
    freqs, x = table(5, 16), torch.randn(2, 5, 3, 16)
    for _ in range(rotary._TIMES + 2):
        assert torch.equal(rotary.rotated(x, freqs, sequence_dim=1), apply_rotary_emb(x, freqs, sequence_dim=1))


def halves() -> tuple[Any, Any, dict[str, Any]]:
    return torch.randn(2, 5, 3, 16), table(5, 16), {"use_real_unbind_dim": -2}


def two_angles() -> tuple[Any, Any, dict[str, Any]]:
    return torch.randn(2, 5, 3, 16), (torch.rand(5, 16), torch.rand(5, 16)), {}


def half_precision() -> tuple[Any, Any, dict[str, Any]]:
    return torch.randn(2, 5, 3, 16).bfloat16(), table(5, 16), {}


def wide_table() -> tuple[Any, Any, dict[str, Any]]:
    cos, sin = table(5, 16)
    return torch.randn(2, 5, 3, 16), (cos.double(), sin.double()), {}


@pytest.mark.parametrize("kind", [halves, two_angles, half_precision, wide_table])
def test_other_kinds_are_left_to_diffusers(kind: Any) -> None:
    x, freqs, how = kind()
    for _ in range(rotary._TIMES + 1):
        told = rotary.rotated(x, freqs, sequence_dim=1, **how)
        assert torch.equal(told, apply_rotary_emb(x, freqs, sequence_dim=1, **how))


def test_gradients_pass_through() -> None:
    x = torch.randn(2, 5, 3, 16, requires_grad=True)
    for _ in range(2):
        rotary.rotated(x, table(5, 16), sequence_dim=1).sum().backward()
    assert x.grad is not None


def test_an_engines_forwards_use_it_and_leave_nothing(turned: list[torch.Size]) -> None:
    pipeline = FAMILIES["flux"].build()
    pipeline.set_progress_bar_config(disable=True)
    kwargs = FAMILIES["flux"].requests()[0] | {"num_inference_steps": 8, "output_type": "np"}
    torch.manual_seed(0)
    alone = pipeline(**kwargs | {"generator": torch.Generator().manual_seed(0)}).images
    with Engine(pipeline) as engine:
        together = engine.map([kwargs | {"generator": torch.Generator().manual_seed(0)}])[0].images
        assert transformer_flux.apply_rotary_emb is rotary.rotated
    assert (together == alone).all()
    assert len(turned) > rotary._TIMES
    assert transformer_flux.apply_rotary_emb is apply_rotary_emb


def test_compiled_blocks_keep_their_own() -> None:
    pipeline = FAMILIES["flux"].build()
    pipeline.set_progress_bar_config(disable=True)
    for block in pipeline.transformer.transformer_blocks:
        block.compile(backend="eager")
    with Engine(pipeline) as engine:
        engine.map([FAMILIES["flux"].requests()[0] | {"num_inference_steps": 1}])
        assert transformer_flux.apply_rotary_emb is apply_rotary_emb
