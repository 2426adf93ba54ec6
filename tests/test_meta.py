"""models/loading/meta.py: on `meta` nothing is drawn, and elsewhere all is as ever."""

import subprocess
import sys

import pytest
import torch

from interlace.models.loading.meta import NoDetours


def test_tensors_with_storage_are_drawn_as_ever() -> None:
    torch.manual_seed(3)
    plain = [torch.nn.Embedding(3, 4).weight, torch.nn.Linear(3, 4).weight]
    torch.manual_seed(3)
    with NoDetours():
        within = [torch.nn.Embedding(3, 4).weight, torch.nn.Linear(3, 4).weight]
    for one, other in zip(plain, within, strict=True):
        assert torch.equal(one, other)


def test_modules_on_meta_are_as_ever() -> None:
    before = torch.get_rng_state()
    with torch.device("meta"), NoDetours():
        part = torch.nn.Embedding(3, 4, padding_idx=0)
    assert (part.weight.is_meta, part.weight.shape, part.weight.requires_grad) == (True, (3, 4), True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"device": "cpu"}, {"dtype": torch.int8}, {"requires_grad": True}])
@pytest.mark.parametrize("of", ["flat", "turned", "stretched", "real"])
def test_what_is_like_something_on_meta_is_as_ever(of: str, options: dict[str, object]) -> None:
    flat = torch.ones(3, 4, device="cpu" if of == "real" else "meta")
    like = flat.T if of == "turned" else flat[:1].expand(5, 4) if of == "stretched" else flat
    plain = torch.empty_like(like, **options)
    with NoDetours():
        within = torch.empty_like(like, **options)
    for name in ("shape", "dtype", "device", "requires_grad"):
        assert getattr(within, name) == getattr(plain, name)
    assert within.stride() == plain.stride()


CODE = """
import sys, torch
from interlace.models.loading.meta import NoDetours
with torch.device("meta"), NoDetours():
    part = torch.nn.Embedding(3, 4)
with NoDetours():
    torch.empty_like(part.weight.detach(), device="cpu")
print("sympy" in sys.modules)
"""


def test_neither_needs_sympy() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["False"]
