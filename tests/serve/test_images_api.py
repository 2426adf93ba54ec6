"""The Images API, asked as strangers ask: with OpenAI's own client, and by hand."""

import asyncio
import base64
import io

import openai
import pytest
from PIL import Image

from interlace import AsyncOmni, SamplingParams
from interlace.media.encode import read_parameters
from interlace.models.loader import LoadedModel
from serve.live import ENDLESS, SMALL, Live, b64, mask_png, picture, png, running, until
from tests.zoo import FAMILIES

EXTRA = {"num_inference_steps": 2, "seed": 7}


@pytest.fixture
def client(server: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_generated_picture_is_the_one_that_the_engine_makes_alone(
    client: openai.OpenAI, engines: tuple[AsyncOmni, AsyncOmni]
) -> None:
    answer = client.images.generate(prompt="a red circle", size="64x64", extra_body=EXTRA)
    params = SamplingParams(num_inference_steps=2, seed=7, width=64, height=64)
    alone = engines[0].omni.generate("a red circle", params)[0].images[0]
    got = picture(answer.data[0].b64_json)
    assert got.tobytes() == alone.tobytes()
    assert answer.size == "64x64"
    assert answer.output_format == "png"
    assert answer.model_extra["seed"] == 7
    assert answer.model_extra["timings"]["num_steps"] == 2
    assert answer.usage.output_tokens == 16


def test_n_pictures_have_seeds_that_follow_each_other(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a blue star", n=3, size="64x64", extra_body=EXTRA)
    assert [datum.model_extra["seed"] for datum in answer.data] == [7, 8, 9]
    assert len({datum.b64_json for datum in answer.data}) == 3


@pytest.mark.parametrize(("name", "pillow"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats_and_compression(client: openai.OpenAI, name: str, pillow: str) -> None:
    sizes = []
    for compression in (5, 95):
        answer = client.images.generate(
            prompt="a red circle",
            size="64x64",
            output_format=name,
            output_compression=compression,
            extra_body=EXTRA,
        )
        assert picture(answer.data[0].b64_json).format == pillow
        sizes.append(len(answer.data[0].b64_json))
    assert sizes[0] < sizes[1]


def test_quality_means_steps(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a red circle", size="64x64", quality="low")
    assert answer.model_extra["timings"]["num_steps"] == 8  # half of the model's 16
    assert answer.quality == "low"


def test_url_answers_are_served_for_a_while(server: Live, client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a red circle", size="64x64", response_format="url", extra_body=EXTRA)
    with server.http() as http:
        got = http.get(answer.data[0].url)
        assert got.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(got.content)).size == (64, 64)
        assert http.get("/files/guess.png").status_code == 404


def test_a_stream_brings_partial_pictures_then_the_picture(client: openai.OpenAI) -> None:
    events = list(
        client.images.generate(
            prompt="a red circle",
            size="64x64",
            stream=True,
            partial_images=2,
            extra_body={"num_inference_steps": 6, "seed": 1},
        )
    )
    assert [event.type.split(".")[1] for event in events] == ["partial_image", "partial_image", "completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert all(picture(event.b64_json).size == (64, 64) for event in events)
    assert events[-1].usage.output_tokens == 16
    assert events[0].b64_json != events[1].b64_json
    told = [read_parameters(io.BytesIO(base64.b64decode(event.b64_json))) for event in events]
    assert [one.get("partial_image_at_step") for one in told] == [2, 4, None]
    assert {(one["prompt"], one["seed"], one["num_inference_steps"], one["width"]) for one in told} == {
        ("a red circle", 1, 6, 64)
    }


def test_a_stream_without_partial_pictures(client: openai.OpenAI) -> None:
    events = list(client.images.generate(prompt="a star", size="64x64", stream=True, n=2, extra_body=EXTRA))
    assert [event.type for event in events] == ["image_generation.completed"] * 2


def test_the_asynchronous_client(server: Live) -> None:
    async def many() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answers = [
                client.images.generate(prompt="a star", size="64x64", extra_body={**EXTRA, "seed": seed})
                for seed in range(6)
            ]
            stream = await client.images.generate(
                prompt="a star", size="64x64", stream=True, partial_images=1, extra_body={"num_inference_steps": 4}
            )
            kinds = [event.type async for event in stream]
            assert kinds == ["image_generation.partial_image", "image_generation.completed"]
            return [answer.data[0].b64_json for answer in await asyncio.gather(*answers)]

    assert len(set(asyncio.run(many()))) == 6


def test_closing_a_stream_aborts_the_request(patient: Live) -> None:
    client = openai.OpenAI(base_url=f"{patient.url}/v1", api_key="none", max_retries=0)
    steps = {"num_inference_steps": ENDLESS["num_inference_steps"]}
    stream = client.images.generate(prompt="a", size="64x64", stream=True, partial_images=3, extra_body=steps)
    with patient.http() as http:
        assert http.get("/v1/requests").json()["data"]
        stream.close()
        until(lambda: not http.get("/v1/requests").json()["data"])


def test_edit_of_one_picture(client: openai.OpenAI) -> None:
    answer = client.images.edit(image=("a.png", png(64, 80)), prompt="make it blue", extra_body=EXTRA)
    assert picture(answer.data[0].b64_json).size == (64, 80)


def test_edit_of_several_pictures(client: openai.OpenAI) -> None:
    files = [("a.png", png(colour="red")), ("b.png", png(colour="blue"))]
    answer = client.images.edit(image=files, prompt="put them together", size="64x64", extra_body=EXTRA)
    assert picture(answer.data[0].b64_json).size == (64, 64)


def test_edit_with_a_mask_keeps_what_is_outside(client: openai.OpenAI) -> None:
    answer = client.images.edit(
        image=("a.png", png()), mask=("m.png", mask_png()), prompt="make it blue", size="64x64", extra_body=EXTRA
    )
    got = picture(answer.data[0].b64_json)
    right = got.crop((32, 0, 64, 64))
    assert set(right.getdata()) == {(255, 0, 0)}
    assert set(got.crop((0, 0, 32, 64)).getdata()) != {(255, 0, 0)}


def test_edit_streams(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=("a.png", png()),
        prompt="make it blue",
        size="64x64",
        stream=True,
        partial_images=1,
        extra_body={"num_inference_steps": 4},
    )
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_edit_in_json(server: Live) -> None:
    with server.http() as http:
        for images in ({"image": b64(png())}, {"images": [{"image_url": f"data:image/png;base64,{b64(png())}"}]}):
            got = http.post("/v1/images/edits", json={"prompt": "make it blue", **SMALL, **images})
            assert got.status_code == 200, got.text
            assert picture(got.json()["data"][0]["b64_json"]).size == (64, 64)


BAD = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": " "}, "prompt"),
    ({}, "prompt"),
    ({"prompt": "a" * 40_000}, "prompt"),
    ({"prompt": ["a"]}, "prompt"),
    ({"prompt": "a", "n": 11}, "n"),
    ({"prompt": "a", "n": 0}, "n"),
    ({"prompt": "a", "n": "1"}, "n"),
    ({"prompt": "a", "size": "1000x64"}, "size"),
    ({"prompt": "a", "width": 1000, "height": 64}, "width"),
    ({"prompt": "a", "size": "9999x9999"}, "size"),
    ({"prompt": "a", "size": "70x64"}, "size"),
    ({"prompt": "a", "size": "big"}, "size"),
    ({"prompt": "a", "size": "64x64", "width": 80}, "size"),
    ({"prompt": "a", "num_inference_steps": 151}, "num_inference_steps"),
    ({"prompt": "a", "output_format": "gif"}, "output_format"),
    ({"prompt": "a", "background": "transparent"}, "background"),
    ({"prompt": "a", "partial_images": 4, "stream": True}, "partial_images"),
    ({"prompt": "a", "response_format": "file", "n": 2}, "response_format"),
    ({"prompt": "a", "stream": True, "async": True}, "stream"),
    ({"prompt": "a", "seed": -2}, "seed"),
    ({"prompt": "a", "strength": 0.5}, "strength"),
    ({"prompt": "a", "lora": {"name": "outline", "scale": "much"}}, "lora"),
    ({"prompt": "a", "lora": {"path": "../x.safetensors"}}, "lora"),
    ({"prompt": "a", "sampler": "Ulan"}, "sampler"),
    ({"prompt": "a", "extra_params": {"output_type": "latent"}}, "extra_params"),
    ({"prompt": "a", "extra_params": {"num_images_per_prompt": 9}}, "extra_params"),
    ({"prompt": "a", "extra_params": {"height": 64}}, "extra_params"),
    ({"prompt": "a", "extra_params": {"nonsense": 1}}, "extra_params"),
    ({"prompt": "a", "guidence_scale": 2}, "guidence_scale"),
    ({"prompt": "a", "steps": 3}, "steps"),
    ({"prompt": "a", "image": b64(png())}, "image"),
    ({"prompt": "a", "extra_body": {"seed": 1}, "seed": 2}, "seed"),
    ({"prompt": "a", "extra_body": [1]}, "extra_body"),
    ({"prompt": "a", "model": "demo-edit"}, "model"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_what_is_not_honoured_is_refused_by_name(server: Live, body: dict, param: str) -> None:
    with server.http() as http:
        got = http.post("/v1/images/generations", json=body)
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert error["param"] == param, error
    assert error["type"] == "invalid_request_error"
    assert error["code"]
    assert len(error["message"]) > 15


@pytest.mark.parametrize("path", ["/v1/images/generations", "/generate", "/v1/chat/completions"])
def test_a_prompt_that_is_longer_than_the_model_reads_is_a_warning(server: Live, path: str) -> None:
    words = "a red circle " * 10
    text = {"messages": [{"role": "user", "content": words}]} if "chat" in path else {"prompt": words}
    own = {"sampling_params": {"width": 64, "height": 64, "num_inference_steps": 2}} if path == "/generate" else SMALL
    with server.http() as http:
        got = http.post(path, json={**text, **own})
        short = http.post("/v1/images/generations", json={"prompt": "a red circle", **SMALL})
    assert got.status_code == 200, got.text
    (warning,) = got.json()["warnings"]
    assert warning.startswith("the prompt has 31 tokens and the model reads 24")
    assert got.headers["x-interlace-warnings"] == warning
    assert "warnings" not in short.json()


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="a", size="63x64")
    assert bad.value.param == "size"
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="a", model="dall-e-9")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.InternalServerError) as late:
        client.images.generate(prompt="a", size="64x64", extra_body={"num_inference_steps": 100, "timeout_s": 0.05})
    assert late.value.status_code == 504
    assert late.value.response.headers["x-should-retry"] == "false"


def test_the_client_waits_as_long_as_it_is_told_and_tries_again(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    with running(*engines, max_requests_per_key=1) as live:
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
        with live.paused():
            client.images.generate(prompt="a", size="64x64", extra_body={**EXTRA, "async": True})
            with pytest.raises(openai.RateLimitError) as refused:
                client.images.generate(prompt="a", size="64x64", extra_body=EXTRA)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        tries_again = client.with_options(max_retries=60)
        assert tries_again.images.generate(prompt="a", size="64x64", extra_body=EXTRA).data


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "demo-edit"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("black-forest-labs/FLUX.1-dev")


def test_a_size_that_a_model_without_limits_cannot_make_is_refused_at_once() -> None:
    """Stable Diffusion 3.5's pipeline alone says that it takes multiples of 4, here."""
    omni = AsyncOmni(LoadedModel("tiny-sd3", FAMILIES["sd3.5"].build(), {"num_inference_steps": 2}))
    told = "size is 66x64: width 66 is not a multiple of 4, as StableDiffusion3Pipeline wants; try 64 or 68"
    with running(omni) as live, live.http() as http:
        for path, body in (
            ("/v1/images/generations", {"prompt": "a star", "size": "66x64"}),
            ("/v1/images/generations", {"prompt": "a star", "size": "66x64", "async": True}),
            ("/generate", {"prompt": "a star", "sampling_params": {"size": "66x64"}}),
        ):
            got = http.post(path, json=body)
            assert (got.status_code, got.json()["error"]["param"]) == (400, "size"), path
            assert got.json()["error"]["message"] == told
        assert http.get("/v1/requests", params={"status": "all"}).json()["data"] == []
        assert http.post("/v1/images/generations", json={"prompt": "a star", "size": "68x64"}).status_code == 200
    omni.omni.close()
