"""The HTTP server over stages: chats that are answered with text and picture, images, and plain models beside."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from openai import BadRequestError, OpenAI
from serve.live import Live, b64, picture, png, running

from interlace import AsyncOmni, create_ar_stage_config, create_dit_stage_config
from tests.tiny import save_tiny_flux

SMALL = {"size": "32x32", "seed": 5}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    flux = save_tiny_flux(tmp_path_factory.mktemp("flux"))
    stages = [
        create_ar_stage_config(0, "demo-expand", engine_args={"dtype": "float32"}),
        create_dit_stage_config(1, str(flux), dit_config={"num_inference_steps": 4}),
    ]
    omni = AsyncOmni(stages=stages)
    with running(omni, warmup=True) as server:
        yield server
    omni.omni.close()


def test_a_chat_is_answered_with_text_and_picture(live: Live) -> None:
    client = OpenAI(base_url=f"{live.url}/v1", api_key="none")
    asked = {"messages": [{"role": "user", "content": "a star"}], "model": "", "temperature": 0.0}
    answer = client.chat.completions.create(**asked, extra_body=SMALL)
    message = answer.choices[0].message
    (image,) = message.images
    written = live.state.lanes.draw.omni.generate({"prompt": "a star", "temperature": 0.0})
    assert message.content == written[0].text
    assert picture(image["image_url"]["url"].partition(",")[2]).size == (32, 32)
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens > 3
    two = client.chat.completions.create(**asked, n=2, extra_body=SMALL)
    assert len(two.choices) == 2


def test_a_stream_tells_the_text_first_and_then_the_picture(live: Live) -> None:
    client = OpenAI(base_url=f"{live.url}/v1", api_key="none")
    messages = [{"role": "system", "content": "ignored"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    chunks = list(client.chat.completions.create(messages=messages, model="", stream=True, extra_body=SMALL))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert all(delta.content is None or isinstance(delta.content, str) for delta in deltas)
    texts = [i for i, delta in enumerate(deltas) if delta.content]
    images = [i for i, delta in enumerate(deltas) if getattr(delta, "images", None)]
    assert len(texts) > 3
    assert len(images) == 1
    assert images[0] > texts[-1]
    assert chunks[-1].usage.completion_tokens > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_images_and_generate_go_through_the_stages_too(live: Live) -> None:
    with live.http() as http:
        made = http.post("/v1/images/generations", json={"prompt": "a star", **SMALL}).json()
        assert picture(made["data"][0]["b64_json"]).size == (32, 32)
        assert made["timings"]["num_steps"] == 4, "what the stage's dit_config says"
        many = http.post("/generate", json={"prompt": ["a star", "two circles"], "sampling_params": SMALL}).json()
        assert all("images" in one for one in many["outputs"])
        args = [{"prompt": "a star", "temperature": 0.0}, {"prompt": "a star", "seed": 3, "width": 16, "height": 32}]
        one = http.post("/generate", json={"stage_args": args}).json()["outputs"][0]
        assert (one["prompt"], one["images"][0]["seed"], one["images"][0]["width"]) == ("a star", 3, 16)
        refused = http.post("/generate", json={"stage_args": args[:1]})
        assert "stage_args has 1 dicts; this server runs 2 stages" in refused.json()["error"]["message"]
        refused = http.post("/generate", json={"stage_args": [{"prompt": "a", "width": 16}, {}]})
        assert "stage_args of stage 0: width; expected" in refused.json()["error"]["message"]
        info = http.get("/info").json()
        assert [stage["stage_type"] for stage in info["stages"]] == ["ar", "diffusion"]
        counts = http.get("/v1/stats").json()["stages"]
        assert counts[0]["finished"] >= 3
        assert "interlace:stage_requests" in http.get("/metrics").text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "expected user"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "expected text or image_url"),
        ({"messages": [{"role": "user", "content": "a"}], "temperature": -1}, "temperature"),
        ({"messages": [{"role": "user", "content": "a"}], "tols": []}, "tols"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {
            "type": "image_url", "image_url": {"url": "data:image/png;base64," + b64(png())}}]}]}, "--edit-model"),
        ({"messages": [{"role": "user", "content": "a star " * 60}]}, "the prompt has 121 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_words(live: Live, body: dict, words: str) -> None:
    client = OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(BadRequestError, match=words):
        client.chat.completions.create(model="", messages=body.pop("messages"), extra_body={**SMALL, **body})


def test_a_stream_that_fails_says_so(live: Live) -> None:
    with live.http() as http:
        body = {"messages": [{"role": "user", "content": "a star " * 60}], "stream": True, **SMALL}
        lines = http.post("/v1/chat/completions", json=body).text
    last = [line for line in lines.splitlines() if line.startswith("data: ")][-1]
    assert "121 tokens" in json.loads(last[6:])["error"]["message"]


def test_a_plain_model_answers_chats_with_its_picture(tmp_path: Path) -> None:
    omni = AsyncOmni(save_tiny_flux(tmp_path))
    with running(omni) as live, live.http() as http:
        body = {"messages": [{"role": "user", "content": "a star"}], **SMALL}
        answer = http.post("/v1/chat/completions", json=body).json()
        message = answer["choices"][0]["message"]
        assert message["content"] is None
        assert [(part["type"], part["index"]) for part in message["images"]] == [("image_url", 0)]
        warned = http.post("/v1/chat/completions", json={**body, "temperature": 0.5})
        assert "no language model takes it here" in warned.json()["warnings"][0]
    omni.omni.close()
