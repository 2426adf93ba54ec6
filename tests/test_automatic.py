"""`--optimize auto`: taken where it is equal and quicker, remembered, and left where weights are not plain."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_flux

from interlace import Omni, SamplingParams
from interlace.cli import main, serve
from interlace.cli.flags.shared import EngineFlags, SpeedFlags
from interlace.models.automatic import channels_last as layouts
from interlace.models.automatic import choice
from interlace.models.automatic.trial import Finding
from interlace.models.optimize import AUTO, OPTIMIZATIONS, Optimizations
from tests.zoo import FAMILIES


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERLACE_CACHE_DIR", str(tmp_path))
    return tmp_path


def clock(monkeypatch: pytest.MonkeyPatch, plain: float, channels_last: float) -> None:
    """What a decode seems to take in each layout: one first, then both in turn."""
    told = itertools.chain([plain], itertools.cycle([plain, channels_last]))
    monkeypatch.setattr(layouts, "seconds", lambda run: (run(), next(told))[1])
    monkeypatch.setattr(choice, "FORMS", ())


def is_channels_last(vae: torch.nn.Module) -> bool:
    weights = [p for p in vae.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_what_is_quicker_is_taken_and_remembered(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    clock(monkeypatch, 0.02, 0.01)
    pipeline = tiny_flux()
    assert AUTO.apply(pipeline) == ("vae channels_last (2.00 times as quick)",)
    assert is_channels_last(pipeline.vae)
    assert len(list((own_cache / "optimize").iterdir())) == 1
    monkeypatch.setattr(choice, "try_channels_last", lambda vae: pytest.fail("it is known"))
    assert AUTO.apply(again := tiny_flux())
    assert is_channels_last(again.vae)


@pytest.mark.parametrize(("plain", "other", "why"), [(0.01, 0.01, "1.00 times"), (2.0, 0.1, "one decode takes 2.0 s")])
def test_what_is_not_quicker_is_left(monkeypatch: pytest.MonkeyPatch, plain: float, other: float, why: str) -> None:
    clock(monkeypatch, plain, other)
    pipeline = tiny_flux()
    assert why in layouts.try_channels_last(pipeline.vae).why
    assert AUTO.apply(pipeline) == ()
    assert not is_channels_last(pipeline.vae)


def test_other_pictures_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.02, 0.01)
    pipeline = tiny_flux()
    decode = pipeline.vae.decode

    def unlike(*args: Any, **kwargs: Any) -> Any:
        return (decode(*args, **kwargs)[0] + is_channels_last(pipeline.vae),)

    pipeline.vae.decode = unlike
    assert layouts.try_channels_last(pipeline.vae) == Finding(False, "channels-last gave other pictures")
    assert not is_channels_last(pipeline.vae)


def test_weights_that_are_not_plain_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.02, 0.01)
    pipeline = tiny_flux()
    pipeline.vae._hf_hook = object()
    assert AUTO.apply(pipeline) == ()
    pipeline = tiny_flux()
    pipeline.vae.quant = torch.nn.Parameter(torch.zeros(1, dtype=torch.uint8), requires_grad=False)
    assert AUTO.apply(pipeline) == ()


def test_who_loads_by_name_gets_it_and_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.02, 0.01)
    small = SamplingParams(height=64, width=64, num_inference_steps=2, seed=1)
    pictures, optimized = [], []
    for chosen in (None, Optimizations()):
        with Omni("demo", optimizations=chosen) as omni:
            optimized.append(omni.describe()["optimized"])
            outputs = omni.generate(["a red circle", "a blue star"], small, raise_on_error=True)
            pictures.append(np.stack([np.asarray(output.image, dtype=np.int16) for output in outputs]))
    assert optimized == [["vae channels_last (2.00 times as quick)"], []]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    with Omni("demo", batch_invariant=True) as omni:
        assert omni.describe()["optimized"] == []


@pytest.mark.parametrize("flags", [[], ["--batch-invariant"], ["--optimize", "off"]])
def test_every_command_takes_it_unless_told_otherwise(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setitem(OPTIMIZATIONS, "auto", lambda pipeline: asked.append(type(pipeline).__name__) or [])
    small = ["--steps", "1", "--size", "64x64", "-o", str(tmp_path / "out"), *flags]
    assert main.run(["t2i", "a star", *small]) == 0
    assert main.run(["edit", str(tmp_path / "out" / "000000.png"), "make it blue", *small]) == 0
    engine = EngineFlags(batch_invariant="--batch-invariant" in flags)
    speed = SpeedFlags(optimize="off" if "off" in flags else "auto")
    for omni in serve._here(serve.ServeFlags(engine=engine, speed=speed)):
        assert omni is not None
        omni.omni.close()
    assert asked == ([] if flags else ["FluxPipeline", "FluxKontextPipeline", "FluxPipeline"])


@pytest.mark.parametrize("family", ["wan", "ltx", "qwen-image", "stable-audio"])
def test_autoencoders_of_other_kinds_are_left_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "FORMS", ())
    pipeline = FAMILIES[family].build()
    before = [parameter.stride() for parameter in pipeline.vae.parameters()]
    assert AUTO.apply(pipeline) == ()
    assert [parameter.stride() for parameter in pipeline.vae.parameters()] == before
