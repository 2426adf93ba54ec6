"""Language model stages whose models see or hear: media beside texts, batched, equal to stock `generate` alone."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interlace import Omni, create_ar_stage_config
from interlace.errors import InvalidRequestError
from interlace.stages.omni.models.seeing import Seeing
from interlace.stages.omni.stage import OmniModelStage
from interlace.stages.parse import parse
from tests.stages.omni_models import save_hearing, save_llava, save_seeing, save_smolvlm
from tests.stages.test_omni_parts import SYSTEM, all_together

PICTURE = Image.linear_gradient("L").resize((56, 84)).convert("RGB")
SOUND = np.sin(np.arange(12000) / 9).astype(np.float32)
SEEN: list[dict[str, Any]] = [
    {"prompt": "what is it", "multi_modal_data": {"image": PICTURE}, "max_tokens": 12},
    {"prompt": "hello", "max_tokens": 15},
    {"prompt": "two", "multi_modal_data": {"image": [PICTURE, PICTURE.rotate(90)]}, "max_tokens": 9},
]
HEARD: list[dict[str, Any]] = [
    {"prompt": "who speaks", "multi_modal_data": {"audio": SOUND}, "max_tokens": 12},
    {"prompt": "hello", "max_tokens": 15},
    {"prompt": "and who", "multi_modal_data": {"audio": SOUND[:9000]}, "max_tokens": 9},
]


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    ("save", "requests", "encoder", "takes"),
    [
        (save_seeing, SEEN, "visual_encoder", "text, image, video"),
        (save_llava, SEEN, "vision_tower_encoder", "text, image"),
        (save_hearing, HEARD, "audio_tower_encoder", "text, audio"),
        pytest.param(
            save_smolvlm,
            SEEN,
            "vision_model_encoder",
            "text, image",
            marks=pytest.mark.skipif(not find_spec("num2words"), reason="transformers' SmolVLM needs num2words"),
        ),
    ],
    ids=["qwen2.5-vl", "llava", "qwen2-audio", "smolvlm"],
)
def test_media_and_texts_share_forwards_and_equal_stock_generate_alone(
    save: Any, requests: list[dict[str, Any]], encoder: str, takes: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    args = {"system_prompt": SYSTEM}
    with Omni(stages=[create_ar_stage_config(0, str(save(tmp_path / "model")), engine_args=args)]) as omni:
        outputs = all_together(omni, [{"temperature": 0, **request} for request in requests], monkeypatch)
        stage = omni.pipeline.links[0].stage
        assert isinstance(stage, OmniModelStage)
        assert isinstance(stage.family, Seeing)
        stats = stage.stats()["thinker"]
        assert not stats["unfused"]
        assert stats["mean_rows"]["thinker"] > 1.3
        assert max(stats["widths"][encoder]) > 1
        assert (stats["prefixes"][0]["misses"], stats["prefixes"][0]["hits"]) == (1, 2)
        for request, output in zip(requests, outputs, strict=True):
            inputs = stage.inputs.make(parse(request, None, omni.configs, "alone"))
            ids = stage.family._whole.generate(**inputs, max_new_tokens=request["max_tokens"], do_sample=False)
            written = ids[0, inputs["input_ids"].shape[1] :]
            assert output.text == stage.inputs.tokenizer.decode(written, skip_special_tokens=True)
        spoken = omni.submit({"prompt": "x", "modalities": ("text", "audio")}).result(timeout=120)
        strange = {"image": PICTURE} if "image" not in takes else {"audio": [0.0] * 800}
        refused = omni.submit({"prompt": "x", "multi_modal_data": strange}).result(timeout=120)
    assert isinstance(spoken.error, InvalidRequestError)
    assert f"it takes {takes}:" in str(refused.error)
