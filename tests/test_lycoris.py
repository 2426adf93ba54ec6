"""LoHa and LoKr files in kohya's names: as the weights that they stand for, by request, beside requests without."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interlace import Engine
from interlace.errors import InvalidRequestError
from interlace.models.adapters.lora import load_lora, read_lora, remove_lora
from tests.checkpoints import save_kohya, save_lycoris
from tests.test_families import TOLERANCE, difference
from tests.zoo import FAMILIES


def call(number: int) -> dict[str, Any]:
    own = FAMILIES["sd15-ddim"].requests()[number]
    return {**own, "height": 32, "width": 32, "num_inference_steps": 2}


@pytest.mark.parametrize("kind", ["hada", "lokr"])
def test_a_request_gets_what_the_changed_weights_give(tmp_path: Path, kind: str) -> None:
    pipeline: Any = FAMILIES["sd15-ddim"].build()
    twin = copy.deepcopy(pipeline)
    plain = pipeline(**call(0))
    adds = save_lycoris(pipeline.unet, tmp_path / "a.safetensors", kind)
    save_kohya(pipeline.unet, tmp_path / "b.safetensors")
    with torch.no_grad():
        for name, delta in adds.items():
            twin.unet.get_submodule(name).weight += 0.7 * delta
    changed = twin(**call(1))
    load_lora(pipeline, read_lora("a", tmp_path / "a.safetensors"))
    load_lora(pipeline, read_lora("b", tmp_path / "b.safetensors"))  # over the former's layers
    with Engine(pipeline) as engine:
        futures = [engine.submit(call(i), adapters=own) for i, own in enumerate([{}, {"a": 0.7}])]
        outputs = [future.result(timeout=120) for future in futures]
    assert difference(outputs[0], plain) < TOLERANCE
    assert difference(outputs[1], changed) < TOLERANCE
    assert difference(outputs[1], FAMILIES["sd15-ddim"].build()(**call(1))) > 10 * TOLERANCE
    remove_lora(pipeline, "b")
    remove_lora(pipeline, "a")
    assert difference(pipeline(**call(0)), plain) == 0


def test_what_peft_has_no_layer_for_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    pipeline: Any = FAMILIES["sd15-ddim"].build()
    save_lycoris(pipeline.unet, tmp_path / "a.safetensors", "lokr")
    tensors = load_file(tmp_path / "a.safetensors")
    name = next(name for name in tensors if name.endswith("lokr_w2_b"))
    save_file({**tensors, name.replace("lokr_w2_b", "dora_scale"): torch.ones(8)}, tmp_path / "b.safetensors")
    with pytest.raises(InvalidRequestError, match="dora_scale, which are not supported"):
        load_lora(pipeline, read_lora("b", tmp_path / "b.safetensors"))
    assert not getattr(pipeline.unet, "peft_config", {})
