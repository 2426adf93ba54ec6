"""Quantised models: each request as the same quantised pipeline alone, in shared forwards; adapters over such."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from interlace import Engine
from interlace.errors import InvalidRequestError
from interlace.extras import Extras
from interlace.models.loader import load_model
from tests.checkpoints import save_gguf, save_sd15
from tests.test_adapters import activate
from tests.test_families import TOLERANCE, difference
from tests.zoo import FAMILIES
from tests.zoo.family import seeded
from tests.zoo.stable_diffusion import tiny

KINDS = ("torchao:int8wo", "torchao:int8dq", "torchao:float8wo", "quanto:int8")
TRIED = [(kind, place) for kind in KINDS for place in ("flux", "sd.safetensors")]
TRIED += [("quanto:int4", "flux"), ("quanto:int2", "flux")]
_PACKAGES = {"torchao": "torchao", "quanto": "optimum"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flux/ and sd/, sd.safetensors, flux.gguf."""
    folder = tmp_path_factory.mktemp("models")
    flux, sd = FAMILIES["flux"].build(), tiny()
    flux.save_pretrained(folder / "flux")
    sd.save_pretrained(folder / "sd")
    save_sd15(sd, folder / "sd.safetensors")
    save_gguf(flux.transformer, folder / "flux.gguf")
    return folder


def loaded(place: Path, **extras: Any) -> Any:
    pipeline = load_model(place, extras=Extras(**extras), device="cpu").pipeline
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def needs(kind: str) -> None:
    if importlib.util.find_spec(_PACKAGES[kind.partition(":")[0]]) is None:
        pytest.skip(f"{kind} needs its package: pip install interlace[quantize]")


@pytest.mark.parametrize(("kind", "place"), TRIED)
def test_a_quantised_denoiser_draws_as_it_does_alone(files: Path, kind: str, place: str) -> None:
    needs(kind)
    family = FAMILIES["flux" if place == "flux" else "sd15-ddim"]
    config = {} if place == "flux" else {"config_from": str(files / "sd")}
    pipeline = loaded(files / place, quantize=kind, **config)
    alone = [pipeline(**kwargs) for kwargs in family.requests()[::2]]  # of one size
    assert difference(alone[0], family.build()(**family.requests()[0])) > 0, "fewer bits, another picture"
    with Engine(pipeline, max_batch_rows=None) as engine:
        together = engine.map(family.requests()[::2])
        assert engine.stats()["mean_rows"][family.denoisers[0]] > 1, engine.stats()["unfused"]
    assert max(map(difference, together, alone)) < TOLERANCE


def test_one_component_alone_may_be_quantised(files: Path) -> None:
    needs("torchao:int8wo")
    pipeline = loaded(files / "flux", quantize="torchao:int8wo,text_encoder_2")
    parts = pipeline.transformer, pipeline.text_encoder_2
    kinds = [{type(parameter.data).__name__ for parameter in part.parameters()} for part in parts]
    assert len(kinds[0]) == 1
    assert len(kinds[1]) == 2


def test_adapters_mix_over_a_quantised_base(files: Path) -> None:
    pipeline = loaded(files / "flux", component=f"transformer={files / 'flux.gguf'}")
    assert type(pipeline.transformer.proj_out).__name__ == "GGUFLinear"
    with seeded(3):
        for name in ("a", "b"):
            config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
            pipeline.transformer.add_adapter(config, adapter_name=name)
    asked: list[dict[str, float]] = [{}, {"a": 0.7}, {"b": 1.3}, {"a": 0.5, "b": 0.5}]

    def call() -> dict[str, Any]:
        return FAMILIES["flux"].requests()[0]

    alone = []
    for adapters in asked:
        activate(pipeline.transformer, adapters)
        alone.append(pipeline(**call()))
    with Engine(pipeline, max_batch_rows=None) as engine:  # "auto" shares where it was measured to pay
        for _ in range(3):  # as in engine/test_toys.py
            before = engine.stats()["forwards"].get("transformer", 0)
            with engine.paused():  # all of them start together
                futures = [engine.submit(call(), adapters=adapters) for adapters in asked]
            together = [future.result(timeout=120) for future in futures]
        stats = engine.stats()
    assert max(map(difference, together, alone)) < TOLERANCE
    assert min(difference(alone[0], other) for other in alone[1:]) > 10 * TOLERANCE
    assert stats["forwards"]["transformer"] - before < 2 * call()["num_inference_steps"], stats["unfused"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", ["torchao:int4wo", "torchao:float8dq"])
def test_what_needs_a_gpu_says_so_at_the_door(files: Path, kind: str) -> None:
    needs(kind)
    with pytest.raises(InvalidRequestError, match=r"needs a GPU.*works on a CPU"):
        loaded(files / "flux", quantize=kind)
