"""POST /generate: many prompts in one request, each with its own parameters."""

import pytest

from serve.live import SMALL, Live, b64, picture, png

SAMPLING = {"width": 64, "height": 64, "num_inference_steps": 2}


def test_one_prompt(server: Live) -> None:
    with server.http() as http:
        got = http.post("/generate", json={"prompt": "a red circle", "sampling_params": {**SAMPLING, "seed": 3}})
        same = http.post("/v1/images/generations", json={"prompt": "a red circle", **SMALL, "seed": 3})
    [output] = got.json()["outputs"]
    assert output["images"][0]["seed"] == 3
    theirs, ours = same.json()["data"][0]["b64_json"], output["images"][0]["b64_json"]
    assert picture(ours).tobytes() == picture(theirs).tobytes()


def test_many_prompts_answer_in_order_with_their_own_parameters(server: Live) -> None:
    prompts = ["a red circle", {"prompt": "a blue star", "num_images": 2, "seed": 5}, {"prompt": "x", "width": 80}]
    with server.http() as http:
        got = http.post("/generate", json={"prompt": prompts, "sampling_params": SAMPLING})
    outputs = got.json()["outputs"]
    assert [output["prompt"] for output in outputs] == ["a red circle", "a blue star", "x"]
    assert [image["seed"] for image in outputs[1]["images"]] == [5, 6]
    assert picture(outputs[2]["images"][0]["b64_json"]).size == (80, 64)


def test_pictures_come_along(server: Live) -> None:
    body = {"prompt": "make it blue", "multi_modal_data": {"image": b64(png())}, "sampling_params": SAMPLING}
    with server.http() as http:
        got = http.post("/generate", json=body)
    assert got.status_code == 200, got.text
    assert picture(got.json()["outputs"][0]["images"][0]["b64_json"]).size == (64, 64)


def test_one_that_fails_does_not_take_the_others_along(server: Live) -> None:
    prompts = [{"prompt": "a"}, {"prompt": "b", "num_inference_steps": 120, "timeout_s": 0.01}]
    with server.http() as http:
        got = http.post("/generate", json={"prompt": prompts, "sampling_params": SAMPLING})
    first, second = got.json()["outputs"]
    assert first["images"]
    assert second["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "prompts": ["b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a", {"prompt": "b", "n": 99}]}, "n"),
        ({"prompt": ["a", {"prompt": "b", "stream": True}]}, "stream"),
        ({"prompt": "a", "sampling_params": {"temprature": 1}}, "temprature"),
        ({"prompt": "a", "stage_args": [{}, {}]}, "stage_args"),
        ({"prompt": "a", "multi_modal_data": {"audio": "x"}}, "multi_modal_data"),
    ],
)
def test_refusals_name_the_field(server: Live, body: dict, param: str) -> None:
    with server.http() as http:
        got = http.post("/generate", json=body)
    assert got.status_code == 400, got.text
    assert got.json()["error"]["param"] == param
