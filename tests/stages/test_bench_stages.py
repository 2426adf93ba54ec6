"""The stages bench: whole, and equal both ways. No times are asserted."""

import json
from pathlib import Path

import pytest

from interlace.bench.load.speech import speech
from interlace.bench.load.stages import stages
from interlace.errors import InvalidRequestError
from tests.stages.omni_models import save_qwen2_5_omni
from tests.tiny import save_tiny_flux

pytestmark = pytest.mark.usefixtures("sides_here")


def test_both_ways_give_equal_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy = tmp_path / "deploy.yaml"
    flux = save_tiny_flux(tmp_path / "flux")
    text = f"stage_args:\n- {{stage_type: ar, model: demo-expand}}\n- {{stage_type: diffusion, model: '{flux}'}}"
    deploy.write_text(text)
    stages(deploy_config=deploy, num_requests=4, num_inference_steps=2, size=16, repeats=1, output=tmp_path / "r.json")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "r.json").read_text())
    assert result["command"].startswith("interlace bench stages --num-requests 4 --num-inference-steps 2 --size 16")
    assert {"machine", "cores", "load", "date", "versions"} <= result.keys()
    assert result["equal_texts"] is True
    assert result["max_pixel_difference"] <= 1
    assert set(result["seconds"]) == {"pipelined", "stage_by_stage"}
    assert set(result["seconds"]["pipelined"]) == {"total", "first", "median"}


def test_counts_are_checked() -> None:
    with pytest.raises(InvalidRequestError, match="repeats is 0"):
        stages(repeats=0)


def test_speech_against_stock_generate_gives_equal_text_and_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_qwen2_5_omni(tmp_path / "omni")
    speech(model=str(folder), num_requests=3, max_tokens=6, repeats=1)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["equal_texts"] is True
    assert result["max_difference"] < 1e-4
    assert set(result["seconds"]) == {"interlace", "stock"}
    assert result["mean_rows"]["thinker"]["thinker"] > 1
