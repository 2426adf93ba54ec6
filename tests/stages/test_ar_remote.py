"""A language model server over a real socket: faults of the server are the request's error, and nobody else's."""

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interlace.errors import AbortedError, EngineClosedError, InvalidRequestError, RequestError
from interlace.request import ARSamplingParams, Output, Progress, Request, SamplingParams
from interlace.stages.config import (
    HandoffConfig,
    OmniStageConfig,
    check_stages,
    create_ar_stage_config,
    create_dit_stage_config,
)
from interlace.stages.language.remote import RemoteARStage
from interlace.stages.parse import requests_for
from tests.stages.server import Server

pytest.importorskip("openai")
WAIT_S = 120.0
PARAMS = ARSamplingParams(max_tokens=40, temperature=0.5, top_p=0.9, top_k=5, seed=3, stop=("END",))


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.close()


@pytest.fixture
def stage(server: Server) -> Iterator[RemoteARStage]:
    opened = open_stage(server)
    yield opened
    opened.close()


def open_stage(server: Server, modalities: tuple[str, ...] = ("text",), **changes: Any) -> RemoteARStage:
    args = {"base_url": server.url, "max_retries": 2, "request_timeout_s": WAIT_S, **changes}
    return RemoteARStage(create_ar_stage_config(0, "some-model", input_modalities=modalities, engine_args=args))


def send(stage: RemoteARStage, text: str, name: str = "r", **options: Any) -> "Future[Output]":
    return stage.submit(Request(request_id=name, prompt=text, sampling=PARAMS), options.pop("on_progress", None))


def test_an_answer_comes_back_and_the_parameters_arrive(stage: RemoteARStage, server: Server) -> None:
    output = send(stage, "a red star").result(WAIT_S)
    assert output.text == "A RED STAR"
    assert (output.metrics.num_prompt_tokens, output.metrics.num_tokens) == (3, 3)
    sent = server.requests[0]
    assert sent["model"] == "some-model"
    assert sent["messages"] == [{"role": "user", "content": "a red star"}]
    assert {name: sent[name] for name in ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop")} == {
        "max_tokens": 40, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3, "stop": ["END"],
    }  # fmt: skip


def test_streamed_text_adds_up_to_the_answer(stage: RemoteARStage) -> None:
    seen: list[Progress] = []
    output = send(stage, "a red star", on_progress=seen.append).result(WAIT_S)
    assert [event.text for event in seen] == ["A", " RED", " STAR"]
    assert output.text == "A RED STAR"


def test_completions_servers_templates_and_pictures(server: Server) -> None:
    plain = open_stage(server, api="completions", prompt_template="draw {prompt}", system_prompt="Be brief.")
    assert send(plain, "a star").result(WAIT_S).text == "BE BRIEF. DRAW A STAR"
    assert server.requests[-1]["path"] == "/v1/completions"
    plain.close()
    seeing = open_stage(server, ("text", "image"))
    picture = Image.new("RGB", (4, 4))
    request = Request(request_id="r", prompt="what is it", sampling=PARAMS, images=[picture])
    assert seeing.submit(request).result(WAIT_S).text == "WHAT IS IT"
    assert server.requests[-1]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    seeing.close()


def test_no_more_requests_are_there_at_once_than_allowed(server: Server) -> None:
    server.together = threading.Barrier(3)
    stage = open_stage(server, max_concurrency=3)
    futures = [send(stage, f"short {i}", f"r{i}") for i in range(12)]
    assert all(future.result(WAIT_S).error is None for future in futures)
    assert server.most == 3
    stage.close()


def test_a_busy_server_is_asked_again_after_the_time_it_names(stage: RemoteARStage, server: Server) -> None:
    assert send(stage, "busy star").result(WAIT_S).text == "BUSY STAR"
    assert server.tries("busy") == 3
    assert all(later - before >= 0.3 for before, later in zip(server.times, server.times[1:], strict=False))
    assert stage.stats()["retries"] == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_an_answer_that_breaks_off_is_asked_for_again(stage: RemoteARStage, server: Server, streaming: bool) -> None:
    seen: list[Progress] = []
    output = send(stage, "once a red star", on_progress=seen.append if streaming else None).result(WAIT_S)
    assert output.text == "ONCE A RED STAR"
    assert "".join(event.text or "" for event in seen) == (output.text if streaming else ""), "said once"


@pytest.mark.parametrize("streaming", [False, True])
def test_every_fault_is_the_requests_own_error(stage: RemoteARStage, server: Server, streaming: bool) -> None:
    expected = {
        "down": (RequestError, "failed 3 times, last with: status 503", 3),
        "gone a red star": (RequestError, "failed 3 times", 3),
        "garbage": (RequestError, "", 1),
        "nonsense": (RequestError, "" if streaming else "expected choices with a text", 1),
        "refused": (InvalidRequestError, "this model takes no such thing", 1),
    }
    listener = (lambda event: None) if streaming else None
    bad = {text: send(stage, text, f"{text}", on_progress=listener) for text in expected}
    good = [send(stage, f"fine {i}", f"r{i}", on_progress=listener) for i in range(8)]
    assert [future.result(WAIT_S).text for future in good] == [f"FINE {i}" for i in range(8)]
    for text, (kind, words, tries) in expected.items():
        output = bad[text].result(WAIT_S)
        assert output.text is None
        assert isinstance(output.error, kind), f"{text}: {output.error!r}"
        assert words in str(output.error)
        if not streaming or text not in ("garbage", "nonsense"):
            assert server.tries(text) == tries, text


def test_an_answer_that_takes_too_long_is_the_requests_own_error(server: Server) -> None:
    stage = open_stage(server, request_timeout_s=0.5)
    output = send(stage, "slow").result(WAIT_S)
    assert isinstance(output.error, RequestError)
    assert "failed 3 times, last with: no answer within 0.5 s" in str(output.error)
    stage.close()


def test_a_server_that_is_not_there_is_said_in_words(server: Server) -> None:
    stage = open_stage(server)
    server.close()
    output = send(stage, "a star").result(WAIT_S)
    assert isinstance(output.error, RequestError)
    assert f"{server.url} failed 3 times" in str(output.error)
    stage.close()


def test_aborting_and_closing_end_requests_at_once(server: Server) -> None:
    stage = open_stage(server, request_timeout_s=600)
    gone, other = send(stage, "slow one", "gone"), send(stage, "slow two", "other")
    assert stage.abort("gone"), "also right after it was submitted"
    assert isinstance(gone.result(WAIT_S).error, AbortedError)
    stage.close()
    assert isinstance(other.result(WAIT_S).error, EngineClosedError)
    assert isinstance(send(stage, "more").result(WAIT_S).error, EngineClosedError)


def test_what_a_server_cannot_do_is_refused(server: Server) -> None:
    stage = open_stage(server, max_prompt_chars=5)
    assert "expected at most 5" in str(send(stage, "a red star").result(WAIT_S).error)
    asked = Request(request_id="h", prompt="a", sampling=ARSamplingParams(hidden_layer=-1))
    hidden = stage.submit(asked).result(WAIT_S)
    assert "no hidden states" in str(hidden.error)
    stage.close()


def test_sound_and_films_go_to_a_server_that_takes_them(server: Server) -> None:
    pytest.importorskip("av")
    from interlace.media.film import film_frames
    from interlace.media.soundfiles import decode_sound

    stage = open_stage(server, ("text", "image", "audio", "video"))
    film = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    media = {"audio": np.sin(np.arange(1600) / 9).astype(np.float32), "video": film, "use_audio_in_video": True}
    asked = Request(request_id="r", prompt="what", sampling=PARAMS, images=(film[0],), model_inputs=media)
    assert stage.submit(asked).result(WAIT_S).text == "WHAT"
    stage.close()
    sent = server.requests[0]
    assert sent["mm_processor_kwargs"] == {"use_audio_in_video": True}
    image, sound, clip, text = sent["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert sound["input_audio"]["format"] == "wav"
    samples, rate = decode_sound(base64.b64decode(sound["input_audio"]["data"]))
    assert (len(samples), rate) == (1600, 16000)
    assert len(film_frames(base64.b64decode(clip["video_url"]["url"].partition(",")[2]))) == 3
    assert text == {"type": "text", "text": "what"}


def test_sound_for_a_server_that_takes_text_alone_is_refused(stage: RemoteARStage, server: Server) -> None:
    asked = Request(request_id="r", prompt="what", sampling=PARAMS, model_inputs={"audio": [0.0] * 800})
    error = stage.submit(asked).result(WAIT_S).error
    assert isinstance(error, InvalidRequestError)
    assert "add audio to its input_modalities" in str(error)
    assert not server.requests


def test_hidden_states_of_a_server_are_refused_before_anything_is_loaded() -> None:
    remote = {"base_url": "http://127.0.0.1:9/v1"}
    writes = create_ar_stage_config(0, "some-model", engine_args=remote)
    for draws in (
        create_dit_stage_config(1, "demo", input_modalities=("hidden_states",)),
        create_dit_stage_config(1, "demo", handoff=HandoffConfig(function="hidden_states_to_prompt_embeds")),
    ):
        with pytest.raises(InvalidRequestError, match="on a server, which hands out none"):
            check_stages([writes, draws])
    with pytest.raises(InvalidRequestError, match="a server hands out none"):
        OmniStageConfig(stage_id=0, stage_type="omni", model="m", engine_args=remote)


def test_media_end_with_the_language_model_that_takes_them_where_the_next_stage_does_not() -> None:
    writes = create_ar_stage_config(0, "some-model", input_modalities=("text", "audio", "image"))
    draws = create_dit_stage_config(1, "demo")
    edits = create_dit_stage_config(1, "demo", input_modalities=("text", "image"))
    picture = Image.new("RGB", (8, 8))
    media = {"audio": [0.0], "strength": 0.5}
    asked = Request(request_id="r", prompt="x", sampling=SamplingParams(), images=(picture,), model_inputs=media)
    first, drawn = requests_for(asked, (writes, draws))
    assert (first.images, set(first.model_inputs)) == ((picture,), {"audio", "strength"})
    assert (drawn.images, set(drawn.model_inputs)) == ((), {"strength"})
    assert requests_for(asked, (writes, edits))[1].images == (picture,)
