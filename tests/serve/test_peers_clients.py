"""What the benchmark clients of vLLM-Omni and SGLang-Diffusion send, field by field: answered as they read it."""

import base64
import json
from typing import Any

import pytest

from serve.live import Live, picture, png

STEPS = {"num_inference_steps": 2, "seed": 7}


def test_vllm_omnis_chat_body_with_a_literal_extra_body(server: Live) -> None:
    extra = {"height": 64, "width": 64, **STEPS, "fps": 16, "guidance_scale": 3.5, "bot_task": "think"}
    body = {"model": "demo", "messages": [{"role": "user", "content": "a star"}], "extra_body": extra}
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    message = answer.json()["choices"][0]["message"]
    url = message["images"][0]["image_url"]["url"]
    assert picture(url.partition(",")[2]).size == (64, 64)
    assert "bot_task" in answer.headers["X-Interlace-Warnings"]


def test_vllm_omnis_chat_body_with_a_picture_is_an_edit(server: Live) -> None:
    sent = "data:image/png;base64," + base64.b64encode(png()).decode()
    content = [{"type": "text", "text": "make it blue"}, {"type": "image_url", "image_url": {"url": sent}}]
    body = {"model": "demo", "messages": [{"role": "user", "content": content}], "extra_body": STEPS}
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["images"]


@pytest.mark.parametrize(
    "more",
    [
        {"bot_task": "think", "sys_type": "en_unified", "true_cfg_scale": "2.0", "negative_prompt": "dark"},
        {"bot_task": "think", "system_prompt": ""},
        {},
    ],
    ids=["vllm-omni", "vllm-omni-plain", "sglang"],
)
def test_their_edit_forms(server: Live, more: dict[str, str]) -> None:
    form = {"model": "demo", "prompt": "make it blue", "size": "64x64", "response_format": "b64_json",
            "num_inference_steps": "2", "seed": "7", **more}  # fmt: skip
    files = [("image", ("a.png", png(), "application/octet-stream"))]
    with server.http() as http:
        answer = http.post("/v1/images/edits", data=form, files=files)
    assert answer.status_code == 200, answer.text
    assert picture(answer.json()["data"][0]["b64_json"]).size == (64, 64)


@pytest.mark.parametrize(
    "more",
    [
        {"slo_ms": 1500, "width": 64, "height": 64},
        {"width": 64, "height": 64, "num_frames": 1, "fps": 24},
        {"negative_prompt": " ", "true_cfg_scale": 1.0, "enable_teacache": False, "generator_device": "cpu"},
    ],
)
def test_their_generations(server: Live, more: dict[str, Any]) -> None:
    body = {
        "model": "demo",
        "prompt": "a star",
        "n": 1,
        "size": "64x64",
        "response_format": "b64_json",
        **STEPS,
        **more,
    }
    with server.http() as http:
        answer = http.post("/v1/images/generations", json=body, headers={"Authorization": "Bearer EMPTY"})
    assert answer.status_code == 200, answer.text
    assert picture(answer.json()["data"][0]["b64_json"]).size == (64, 64)


def test_what_they_ask_a_server_before(server: Live) -> None:
    """SGLang's client takes the model's name from /v1/model_info where that answers."""
    with server.http() as http:
        assert http.get("/health").status_code == 200
        found = http.get("/v1/model_info")
        assert found.status_code == 200, found.text
        assert found.json()["model_path"] == "demo"
        assert json.loads(http.get("/v1/models").text)["data"][0]["id"] == "demo"
