"""A language model server over a real socket: faults of the server are the request's error, and nobody else's."""

from collections.abc import Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any

import pytest
from PIL import Image

from interlace.errors import AbortedError, EngineClosedError, InvalidRequestError, RequestError
from interlace.request import Output, Progress
from interlace.stages.ar_config import ARSamplingParams
from interlace.stages.ar_remote import RemoteARStage
from interlace.stages.config import create_ar_stage_config
from tests.stages.server import Server

pytest.importorskip("openai")
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
    args = {"base_url": server.url, "max_retries": 2, "request_timeout_s": 1.0, **changes}
    return RemoteARStage(create_ar_stage_config(0, "some-model", input_modalities=modalities, engine_args=args))


def send(stage: RemoteARStage, text: str, name: str = "r", **options: Any) -> "Future[Output]":
    return stage.submit({"prompt": text}, PARAMS, request_id=name, **options)


def test_an_answer_comes_back_and_the_parameters_arrive(stage: RemoteARStage, server: Server) -> None:
    output = send(stage, "a red star").result(20)
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
    output = send(stage, "a red star", on_progress=seen.append).result(20)
    assert [event.text for event in seen] == ["A", " RED", " STAR"]
    assert output.text == "A RED STAR"


def test_completions_servers_templates_and_pictures(server: Server) -> None:
    plain = open_stage(server, api="completions", prompt_template="draw {prompt}", system_prompt="Be brief.")
    assert send(plain, "a star").result(20).text == "BE BRIEF. DRAW A STAR"
    assert server.requests[-1]["path"] == "/v1/completions"
    plain.close()
    seeing = open_stage(server, ("text", "image"))
    prompt = {"prompt": "what is it", "multi_modal_data": {"image": Image.new("RGB", (4, 4))}}
    assert seeing.submit(prompt, PARAMS, request_id="r").result(20).text == "WHAT IS IT"
    assert server.requests[-1]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    seeing.close()


def test_no_more_requests_are_there_at_once_than_allowed(server: Server) -> None:
    stage = open_stage(server, max_concurrency=3)
    futures = [send(stage, f"short {i}", f"r{i}") for i in range(12)]
    assert all(future.result(20).error is None for future in futures)
    assert server.most == 3
    stage.close()


def test_a_busy_server_is_asked_again_after_the_time_it_names(stage: RemoteARStage, server: Server) -> None:
    assert send(stage, "busy star").result(20).text == "BUSY STAR"
    assert server.tries("busy") == 3
    assert all(later - before >= 0.3 for before, later in zip(server.times, server.times[1:], strict=False))
    assert stage.stats()["retries"] == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_an_answer_that_breaks_off_is_asked_for_again(stage: RemoteARStage, server: Server, streaming: bool) -> None:
    seen: list[Progress] = []
    output = send(stage, "once a red star", on_progress=seen.append if streaming else None).result(20)
    assert output.text == "ONCE A RED STAR"
    assert "".join(event.text or "" for event in seen) == (output.text if streaming else ""), "said once"


@pytest.mark.parametrize("streaming", [False, True])
def test_every_fault_is_the_requests_own_error(stage: RemoteARStage, server: Server, streaming: bool) -> None:
    expected = {
        "down": (RequestError, "failed 3 times, last with: status 503", 3),
        "gone a red star": (RequestError, "failed 3 times", 3),
        "slow": (RequestError, "no answer within 1.0 s", 3),
        "garbage": (RequestError, "", 1),
        "nonsense": (RequestError, "" if streaming else "expected choices with a text", 1),
        "refused": (InvalidRequestError, "this model takes no such thing", 1),
    }
    listener = (lambda event: None) if streaming else None
    bad = {text: send(stage, text, f"{text}", on_progress=listener) for text in expected}
    good = [send(stage, f"fine {i}", f"r{i}", on_progress=listener) for i in range(8)]
    assert [future.result(20).text for future in good] == [f"FINE {i}" for i in range(8)]
    for text, (kind, words, tries) in expected.items():
        output = bad[text].result(30)
        assert output.text is None
        assert isinstance(output.error, kind), f"{text}: {output.error!r}"
        assert words in str(output.error)
        if not streaming or text not in ("garbage", "nonsense"):
            assert server.tries(text) == tries, text


def test_a_server_that_is_not_there_is_said_in_words(server: Server) -> None:
    stage = open_stage(server)
    server.close()
    output = send(stage, "a star").result(30)
    assert isinstance(output.error, RequestError)
    assert f"{server.url} failed 3 times" in str(output.error)
    stage.close()


def test_aborting_and_closing_end_requests_at_once(server: Server) -> None:
    stage = open_stage(server, request_timeout_s=30)
    gone, other = send(stage, "slow one", "gone"), send(stage, "slow two", "other")
    start = monotonic()
    while not stage.abort("gone"):
        assert monotonic() < start + 10
    assert isinstance(gone.result(20).error, AbortedError)
    stage.close()
    assert isinstance(other.result(20).error, EngineClosedError)
    assert isinstance(send(stage, "more").result(20).error, EngineClosedError)
    assert monotonic() - start < 4


def test_what_a_server_cannot_do_is_refused(server: Server) -> None:
    stage = open_stage(server, max_prompt_chars=5)
    assert "expected at most 5" in str(send(stage, "a red star").result(20).error)
    hidden = stage.submit({"prompt": "a"}, ARSamplingParams(hidden_layer=-1), request_id="h").result(20)
    assert "no hidden states" in str(hidden.error)
    stage.close()
