"""The embedded language model: one's text doesn't depend on its company; text, stops, limits, hidden states."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interlace.demo import MODELS
from interlace.errors import AbortedError, EngineClosedError, InvalidRequestError, ModelLoadError
from interlace.request import ARSamplingParams, Output, Progress, Request
from interlace.stages.config import create_ar_stage_config
from interlace.stages.language.local import LocalARStage

IDEAS = ["a star", "something round and red", "two circles", "a blue square", "a heart", "a ring on black", "moon",
         "a yellow thing"] * 2  # fmt: skip
SAMPLED = ARSamplingParams(temperature=0.9, top_p=0.95)


@pytest.fixture(scope="module", params=[True, False], ids=["continuous", "waves"])
def stage(request: pytest.FixtureRequest) -> Iterator[LocalARStage]:
    opened = open_stage(continuous_batching=request.param)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def stock() -> tuple[Any, Any]:
    path = MODELS["demo-expand"].path
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(path)


def open_stage(**engine_args: Any) -> LocalARStage:
    return LocalARStage(create_ar_stage_config(0, "demo-expand", engine_args={"dtype": "float32", **engine_args}))


def ask(stage: LocalARStage, text: Any, params: ARSamplingParams = ARSamplingParams(), **options: Any) -> Output:  # noqa: B008
    return send(stage, text, params, **options).result(120)


def send(stage: LocalARStage, text: Any, params: ARSamplingParams, **options: Any) -> "Future[Output]":
    request = Request(request_id=options.pop("request_id", "r"), prompt=text, sampling=params)
    return stage.submit(request, options.pop("on_progress", None))


def seeded(seed: int, **changes: Any) -> ARSamplingParams:
    return ARSamplingParams(**{**vars(SAMPLED), "seed": seed, **changes})


def test_greedy_text_is_that_of_generate_beside_fifteen_others(stage: LocalARStage, stock: tuple[Any, Any]) -> None:
    futures = [send(stage, text, ARSamplingParams(), request_id=f"r{i}") for i, text in enumerate(IDEAS)]
    model, tokenizer = stock
    for text, future in zip(IDEAS, futures, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False)[0, ids.shape[1] :]
        assert future.result(120).text == tokenizer.decode(answer, skip_special_tokens=True)


def test_sampled_text_is_the_same_alone_and_beside_fifteen_others(stage: LocalARStage) -> None:
    alone = [ask(stage, text, seeded(i)).text for i, text in enumerate(IDEAS)]
    futures = [send(stage, text, seeded(i), request_id=f"r{i}") for i, text in enumerate(IDEAS)]
    assert [future.result(120).text for future in futures] == alone
    assert len({ask(stage, "a star", seeded(i)).text for i in range(6)}) > 3, "other seeds, other texts"


def test_both_ways_of_batching_draw_the_same_text() -> None:
    texts = []
    for continuous in (True, False):
        one = open_stage(continuous_batching=continuous)
        texts.append([ask(one, text, seeded(i)).text for i, text in enumerate(IDEAS[:6])])
        one.close()
    assert texts[0] == texts[1]


def test_text_streams_as_it_is_written(stage: LocalARStage) -> None:
    seen: list[Progress] = []
    output = ask(stage, "a star", seeded(1), on_progress=seen.append)
    assert len(seen) > 3
    assert "".join(event.text or "" for event in seen) == output.text
    assert output.metrics.num_tokens >= len(seen)
    assert output.metrics.num_prompt_tokens == 3


def test_a_stop_text_ends_it_and_is_not_part_of_it(stage: LocalARStage) -> None:
    whole = ask(stage, "a star", seeded(1)).text or ""
    stop = whole.split()[4]
    seen: list[Progress] = []
    output = ask(stage, "a star", seeded(1, stop=(stop, "never")), on_progress=seen.append)
    assert output.text == whole[: whole.index(stop)]
    assert "".join(event.text or "" for event in seen) == output.text


def test_max_tokens_and_the_models_length_are_kept(stage: LocalARStage) -> None:
    assert ask(stage, "a star", ARSamplingParams(max_tokens=3)).metrics.num_tokens == 3
    long = ask(stage, "a star " * 60)
    assert isinstance(long.error, InvalidRequestError)
    assert "the prompt has 121 tokens; expected at most 63" in str(long.error)
    greedy = ask(stage, "a star", ARSamplingParams(max_tokens=62))
    assert "max_tokens is 62; expected at most 61 after a prompt of 3 tokens" in str(greedy.error)
    assert "expects a text" in str(ask(stage, None).error)


def test_hidden_states_are_those_of_a_forward_over_the_whole_text(stage: LocalARStage, stock: tuple[Any, Any]) -> None:
    model, tokenizer = stock
    output = ask(stage, "a star", ARSamplingParams(max_tokens=5, hidden_layer=2, hidden_tokens="all"))
    ids = tokenizer("a star", return_tensors="pt").input_ids
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5)
    with torch.no_grad():
        expected = model(answer, output_hidden_states=True).hidden_states[2]
    assert torch.allclose(output.hidden_states, expected, atol=1e-5)
    generated = ask(stage, "a star", ARSamplingParams(max_tokens=5, hidden_layer=2)).hidden_states
    assert torch.allclose(generated, expected[:, 3:], atol=1e-5)
    assert "expected -5 to 4" in str(ask(stage, "a star", ARSamplingParams(hidden_layer=9)).error)


def test_an_abort_and_a_listener_that_fails_end_one_request_alone(stage: LocalARStage) -> None:
    def fails(event: Progress) -> None:
        raise RuntimeError("the listener fell over")

    def aborts(event: Progress) -> None:
        stage.abort("gone")

    bad = send(stage, "a star", seeded(1), request_id="bad", on_progress=fails)
    gone = send(stage, "a heart", seeded(2), request_id="gone", on_progress=aborts)
    good = send(stage, "a ring on black", seeded(3), request_id="good")
    assert "fell over" in str(bad.result(120).error)
    assert isinstance(gone.result(120).error, AbortedError)
    assert good.result(120).text == ask(stage, "a ring on black", seeded(3)).text
    assert not stage.abort("gone")


def test_prompt_template_and_system_prompt_come_before_the_model(stock: tuple[Any, Any]) -> None:
    one = open_stage(prompt_template="a red {prompt}", system_prompt="a blue circle")
    assert one.language.tokens("star") == list(stock[1]("a blue circle\na red star").input_ids)
    one.language.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    assert one.language.tokens("star") == list(
        stock[1]("system: a blue circle user: a red star ", add_special_tokens=False).input_ids
    )
    one.close()


def test_closing_ends_what_is_pending() -> None:
    one = open_stage()
    futures = [send(one, "a star", SAMPLED, request_id=f"r{i}") for i in range(40)]
    one.close()
    outputs = [future.result(120) for future in futures]
    assert all(output.text is not None or isinstance(output.error, EngineClosedError) for output in outputs)
    assert isinstance(ask(one, "a star").error, EngineClosedError)
    one.close()


def test_after_a_failure_inside_the_loop_later_requests_go_on() -> None:
    one = open_stage()
    forward, one.language.model.forward = one.language.model.forward, _breaks
    assert one.language.model.forward is _breaks
    broken = ask(one, "a star")
    assert "out of order" in str(broken.error)
    one.language.model.forward = forward
    end = time.monotonic() + 120
    while (again := ask(one, "a star")).error is not None:
        assert time.monotonic() < end, again.error
        time.sleep(0.05)
    one.close()


def _breaks(*args: object, **kwargs: object) -> None:
    raise RuntimeError("out of order")


def test_a_model_that_is_none_is_refused_with_words() -> None:
    with pytest.raises(ModelLoadError, match="cannot load language model 'nobody/nothing'"):
        LocalARStage(create_ar_stage_config(0, "nobody/nothing", engine_args={"local_files_only": True}))
