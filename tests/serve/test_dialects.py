"""Other services' endpoints, with the clients that speak to them."""

import base64
import json
from dataclasses import replace

import numpy as np
import openai
import pytest
from diffusers import FluxImg2ImgPipeline
from google import genai
from google.genai import types

from interlace import AsyncOmni
from interlace.models.loader import load_model
from serve.live import SMALL, Live, b64, picture, png, running

EXTRA = {"num_inference_steps": 2}
TOOL = {"type": "image_generation", "size": "64x64"}


@pytest.fixture
def client(server: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_response_has_its_picture_in_a_call_of_the_tool(client: openai.OpenAI) -> None:
    made = client.responses.create(model="demo", input="a red circle", tools=[TOOL], extra_body=EXTRA)
    assert made.status == "completed"
    (call,) = made.output
    assert call.type == "image_generation_call"
    assert picture(call.result).size == (64, 64)
    assert made.usage.output_tokens == 16
    assert made.output_text == ""


def test_a_follow_up_response_changes_the_picture_it_names(client: openai.OpenAI, server: Live) -> None:
    first = client.responses.create(model="demo", input="a red circle", tools=[TOOL], extra_body=EXTRA)
    by_id = client.responses.create(
        model="demo", input="make it blue", tools=[TOOL], previous_response_id=first.id, extra_body={**EXTRA, "seed": 1}
    )
    said = {"role": "user", "content": [{"type": "input_text", "text": "make it blue"}]}
    by_item = client.responses.create(
        model="demo", input=[{"type": "image_generation_call", "id": first.output[0].id}, said],
        tools=[TOOL], extra_body={**EXTRA, "seed": 1},
    )  # fmt: skip
    result = first.output[0].result
    by_value = client.responses.create(
        model="demo", input=[{"role": "user", "content": "a red circle"}, first.output[0].model_dump(), said],
        tools=[TOOL], extra_body={**EXTRA, "seed": 1},
    )  # fmt: skip
    sent = {"type": "input_image", "image_url": f"data:image/png;base64,{result}"}
    by_part = client.responses.create(
        model="demo", input=[{"role": "user", "content": [*said["content"], sent]}], tools=[TOOL],
        extra_body={**EXTRA, "seed": 1},
    )  # fmt: skip
    edits = [picture(one.output[0].result).tobytes() for one in (by_id, by_item, by_value, by_part)]
    assert len(set(edits)) == 1
    assert edits[0] != picture(result).tobytes()
    with pytest.raises(openai.BadRequestError, match="is not kept here"):
        client.responses.create(model="demo", input="a", previous_response_id="resp_nothing")


def test_a_streamed_response_has_partial_images(client: openai.OpenAI) -> None:
    tool = {**TOOL, "partial_images": 2}
    events = list(
        client.responses.create(
            model="demo", input="a star", tools=[tool], stream=True, extra_body={"num_inference_steps": 6}
        )
    )
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.image_generation_call.partial_image") == 2
    assert kinds.index("response.output_item.added") < kinds.index("response.image_generation_call.partial_image")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    partial = next(event for event in events if event.type.endswith("partial_image"))
    assert picture(partial.partial_image_b64).size == (64, 64)
    assert picture(events[-1].response.output[0].result).size == (64, 64)


def test_what_a_response_cannot_do_is_said(client: openai.OpenAI) -> None:
    tools = [TOOL, {"type": "function", "name": "weather", "parameters": {}}]
    told = client.responses.create(
        model="demo", input="a star", instructions="Be brief.", tools=tools, extra_body=EXTRA, temperature=0.5
    )
    warnings = " ".join(told.warnings)
    assert "weather" in warnings
    assert "system message" in warnings
    assert "temperature" in warnings
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.create(model="demo", input="a", background=True)


@pytest.fixture
def gemini(server: Live) -> genai.Client:
    return genai.Client(api_key="none", http_options=types.HttpOptions(base_url=server.url))


CONFIG = types.GenerateContentConfig(
    response_modalities=["TEXT", "IMAGE"], image_config=types.ImageConfig(aspect_ratio="1:1"), seed=7, temperature=0.4
)


def inline(answer: types.GenerateContentResponse) -> bytes:
    return next(part.inline_data.data for part in answer.candidates[0].content.parts if part.inline_data)


def test_gemini_draws_and_edits(gemini: genai.Client) -> None:
    drawn = gemini.models.generate_content(model="demo", contents="a red circle", config=CONFIG)
    again = gemini.models.generate_content(model="demo", contents="a red circle", config=CONFIG)
    assert picture(b64(inline(drawn))).size == (128, 128)
    assert inline(drawn) == inline(again)
    shown = types.Part.from_bytes(data=inline(drawn), mime_type="image/png")
    edited = gemini.models.generate_content(model="demo", contents=[shown, "make it blue"], config=CONFIG)
    assert inline(edited) != inline(drawn)
    chat = gemini.chats.create(model="demo", config=CONFIG)
    first = chat.send_message("a red circle")
    second = chat.send_message("make it blue")
    assert inline(first) == inline(drawn)
    assert inline(second) == inline(edited), "the chat's last picture"
    (streamed,) = [one for one in gemini.models.generate_content_stream(
        model="demo", contents="a red circle", config=CONFIG) if one.candidates]  # fmt: skip
    assert inline(streamed) == inline(drawn)
    assert "demo" in [one.name.removeprefix("models/") for one in gemini.models.list()]


def test_gemini_reads_errors(gemini: genai.Client) -> None:
    config = types.GenerateContentConfig(image_config=types.ImageConfig(aspect_ratio="wide"))
    with pytest.raises(genai.errors.ClientError, match="aspect_ratio") as refused:
        gemini.models.generate_content(model="demo", contents="a", config=config)
    assert refused.value.code == 400
    with pytest.raises(genai.errors.ClientError, match="not served here"):
        gemini.models.generate_content(model="gemini-9", contents="a")


def test_azure_and_openrouter_paths(server: Live) -> None:
    azure = openai.AzureOpenAI(azure_endpoint=server.url, api_key="none", api_version="2025-04-01-preview")
    made = azure.images.generate(model="demo", prompt="a star", size="64x64", extra_body=EXTRA)
    assert picture(made.data[0].b64_json).size == (64, 64)
    with pytest.raises(openai.NotFoundError, match="'other' is not served"):
        azure.with_options(max_retries=0).chat.completions.create(
            model="other", messages=[{"role": "user", "content": "a"}]
        )
    with server.http() as http:
        body = {"prompt": "a star", **SMALL}
        deployed = http.post("/openai/deployments/nothing/images/generations", json=body)
        assert (deployed.status_code, deployed.json()["error"]["code"]) == (404, "model_not_found")
        routed = http.post("/api/v1/images", json={"model": "demo", **body}).json()
        assert routed["usage"]["prompt_tokens"] > 0
        reference = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(png())}"}}
        edited = http.post("/api/v1/images", json={"prompt": "make it blue", **SMALL, "input_references": [reference]})
        assert edited.json()["usage"]["input_tokens_details"]["image_tokens"] == 16
        assert http.get("/api/v1/models").json()["data"][0]["id"] == "demo"
        assert http.post("/openai/v1/chat/completions", json={"messages": []}).status_code == 400


def test_variations_only_where_a_model_can_make_them(server: Live, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="makes no variations; use /v1/images/edits"):
        client.images.create_variation(image=("a.png", png()))


def test_a_model_from_picture_to_picture_makes_variations() -> None:
    model = load_model("demo")
    sibling = replace(model, pipeline=FluxImg2ImgPipeline.from_pipe(model.pipeline))
    draw, vary = AsyncOmni(model), AsyncOmni(sibling)
    try:
        with running(draw, vary) as live:
            client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
            sent = ("red.png", png(128, 128, "red"))
            made = client.images.create_variation(image=sent, n=2, size="128x128", response_format="b64_json")
            first, second = (np.asarray(picture(one.b64_json), dtype=float) for one in made.data)
        assert first.shape == (128, 128, 3)
        assert np.abs(first - second).max() > 0, "each with a seed of its own"
    finally:
        draw.omni.close()
        vary.omni.close()


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/images/generations", "/v1/images/generations"),
        ("/v1/image/generations", "/v1/images/generations"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v2/models", "/v1/models"),
        ("/helth", "/health"),
    ],
)
def test_a_path_that_leads_nowhere_names_the_nearest(server: Live, path: str, meant: str) -> None:
    with server.http() as http:
        got = http.post(path, json={})
    assert got.status_code == 404
    assert f"did you mean {meant}?" in got.json()["error"]["message"]


def test_keys_are_taken_as_each_service_sends_them(engines: tuple[AsyncOmni, AsyncOmni]) -> None:
    basic = base64.b64encode(b"somebody:secret").decode()
    with running(*engines, api_key=("secret",)) as live, live.http() as http:
        for headers in ({"Authorization": "Bearer secret"}, {"api-key": "secret"}, {"x-goog-api-key": "secret"},
                        {"Authorization": f"Basic {basic}"}):  # fmt: skip
            assert http.get("/v1/models", headers=headers).status_code == 200, headers
        assert http.get("/v1beta/models?key=secret").status_code == 200
        assert http.get("/v1/models?key=secret").status_code == 401
        wrong = base64.b64encode(b"secret:").decode()
        assert http.get("/v1/models", headers={"Authorization": f"Basic {wrong}"}).status_code == 401
        assert http.get("/v1/models", headers={"Authorization": "Basic !"}).status_code == 401


def test_a_chat_goes_on_with_its_last_picture(server: Live) -> None:
    ask = {"role": "user", "content": "a red circle"}
    with server.http() as http:
        first = http.post("/v1/chat/completions", json={"messages": [ask], **SMALL, "seed": 1}).json()
        message = first["choices"][0]["message"]
        change = {"role": "user", "content": [{"text": "make it blue"}]}
        system = {"role": "system", "content": "You are kind."}
        talk = {"messages": [system, ask, message, change], **SMALL, "seed": 1}
        edited = http.post("/v1/chat/completions", json=talk)
        assert "system message is ignored" in edited.headers["x-interlace-warnings"]
        assert edited.json()["warnings"] == ["the system message is ignored: this model reads the prompt alone"]
        alone = {"role": "user", "content": [*change["content"], {"image_url": message["images"][0]["image_url"]}]}
        same = http.post("/v1/chat/completions", json={"messages": [alone], **SMALL, "seed": 1}).json()
        assert edited.json()["model"] == "demo-edit"
        assert edited.json()["choices"][0]["message"]["images"] == same["choices"][0]["message"]["images"]
        old = {"role": "assistant", "content": f"![it]({message['images'][0]['image_url']['url']})"}
        also = http.post("/v1/chat/completions", json={"messages": [ask, old, change], **SMALL, "seed": 1}).json()
        assert also["choices"][0]["message"]["images"] == same["choices"][0]["message"]["images"]
        nothing = http.post("/v1/chat/completions", json={"messages": [ask], "model": "demo-edit", **SMALL})
        assert nothing.json()["error"]["code"] == "picture_missing"
        assert "demo-edit edits pictures" in nothing.json()["error"]["message"]


def test_a_streamed_chat_has_texts_and_pictures_apart(server: Live) -> None:
    body = {"messages": [{"role": "user", "content": "a star"}], "stream": True, **SMALL, "tools": [], "top_p": 0.5}
    with server.http() as http:
        lines = http.post("/v1/chat/completions", json=body).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert lines[-2] == "data: [DONE]"
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert all(isinstance(delta.get("content", ""), str) for delta in deltas)
    (images,) = [delta["images"] for delta in deltas if "images" in delta]
    assert picture(images[0]["image_url"]["url"].partition(",")[2]).size == (64, 64)
    assert chunks[0]["warnings"][0].startswith("top_p is ignored")
