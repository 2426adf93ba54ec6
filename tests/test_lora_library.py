"""Adapters that are loaded for requests and leave again, while others draw."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from interlace import Omni, SamplingParams
from interlace.adapters import LoraChoice, parse_lora
from interlace.demo import MODELS
from interlace.errors import InvalidRequestError
from interlace.stages.diffusion import DiffusionStage

OWN = MODELS["demo"].path / "lora"


def stage_of(omni: Omni) -> DiffusionStage:
    stage = omni.pipeline.links[0].stage
    assert isinstance(stage, DiffusionStage)
    return stage


def drawing(number: int, lora: str | None) -> SamplingParams:
    return SamplingParams(height=64, width=64, num_inference_steps=3, seed=number, lora=parse_lora(lora))


def test_requests_whose_adapters_come_and_go_meanwhile_draw_as_alone(tmp_path: Path) -> None:
    shutil.copy(OWN / "outline.safetensors", tmp_path / "ink.safetensors")
    asked = [drawing(number, ("outline:0.7", "pastel", "ink:0.4", None)[number % 4]) for number in range(16)]
    with Omni("demo", lora_dir=str(tmp_path), max_loras=1) as omni:
        alone = [omni.submit("a red circle", one).result().image for one in asked[:8]]
        futures = [omni.submit("a red circle", one) for one in asked]
        together = [future.result().image for future in futures]
        assert len(stage_of(omni).loras.loras) == 1
    for one, other in zip(alone, together[:8], strict=True):
        assert np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max() <= 1


def test_who_asks_or_takes_what_is_loaded_does_not_wait_for_what_is_being_loaded(tmp_path: Path) -> None:
    shutil.copy(OWN / "outline.safetensors", tmp_path / "ink.safetensors")
    with Omni("demo", lora_dir=str(tmp_path), lora="pastel") as omni:
        library = stage_of(omni).loras
        loading = threading.Thread(target=library.bring, args=[LoraChoice("ink")])
        asked: list[object] = []

        def ask() -> None:
            asked.append((library.names, sorted(library.loras), library.take([LoraChoice("pastel")])[0]))

        asking = threading.Thread(target=ask)
        with stage_of(omni).engine.paused():  # as by a forward that takes long
            loading.start()
            loading.join(0.3)
            asking.start()
            asking.join(30)
            assert loading.is_alive()
            assert len(asked) == 1
        loading.join(60)
        assert sorted(library.loras) == ["ink", "pastel"]


def test_another_file_under_a_name_takes_its_place_unless_it_is_in_use(tmp_path: Path) -> None:
    ink = tmp_path / "ink.safetensors"
    shutil.copy(OWN / "outline.safetensors", ink)
    with Omni("demo", lora_dir=str(tmp_path)) as omni:
        library = stage_of(omni).loras
        before = library.bring(LoraChoice("ink"))
        (adapter,), give_back = library.take([LoraChoice("ink")])
        shutil.copy(OWN / "pastel.safetensors", ink)
        with pytest.raises(InvalidRequestError, match="in use by 1 requests"):
            library.bring(LoraChoice("ink"))
        assert library.loras["ink"] == before
        give_back()
        ink.write_bytes(b"torn")
        with pytest.raises(InvalidRequestError, match="can't read ink"):
            library.bring(LoraChoice("ink"))
        assert library.loras["ink"] == before
        shutil.copy(OWN / "pastel.safetensors", ink)
        assert library.bring(LoraChoice("ink")).sha256 != before.sha256
        assert library.take([LoraChoice("ink")])[0].keys().isdisjoint([adapter])
