"""Requests through stages: no barrier, backpressure, errors and aborts at any stage; without any model."""

import time
from collections.abc import Iterator

import pytest

from interlace.errors import AbortedError, DeadlineExceededError, EngineClosedError, InvalidRequestError
from interlace.request import Progress
from interlace.stages.config import HandoffConfig
from interlace.stages.pipeline import Pipeline
from tests.stages.fakes import FakeStage, pipeline_of, send

WAIT = 60.0


@pytest.fixture
def three() -> Iterator[tuple[Pipeline, list[FakeStage]]]:
    stages = [FakeStage(letter, 0.02) for letter in "abc"]
    pipeline = pipeline_of(stages)
    yield pipeline, stages
    pipeline.close()


def test_a_request_goes_through_all_stages_and_keeps_its_own_text(three: tuple[Pipeline, list[FakeStage]]) -> None:
    futures = [send(three[0], f"r{i}", f"<{i}>") for i in range(20)]
    assert [future.result(WAIT).text for future in futures] == [f"<{i}>abc" for i in range(20)]
    assert all(not link.slots.inside for link in three[0].links)


def test_a_request_goes_on_while_others_are_still_at_the_stage_before() -> None:
    stages = [FakeStage("a", None), FakeStage("b")]
    pipeline = pipeline_of(stages)
    first, second = (send(pipeline, f"r{i}", "x") for i in range(2))
    until(lambda: len(stages[0].held) == 2)
    stages[0].answer_first()
    assert first.result(WAIT).text == "xab", "no barrier between the stages"
    assert not second.done()
    stages[0].go_on()
    assert second.result(WAIT).text == "xab"
    pipeline.close()


def test_a_slow_stage_holds_back_the_one_before_it() -> None:
    stages = [FakeStage("a"), FakeStage("b", None)]
    pipeline = pipeline_of(stages, limit=2)
    futures = [send(pipeline, f"r{i}", "x") for i in range(6)]
    first, second = (link.slots for link in pipeline.links)
    until(lambda: len(second.inside) == 2 and second.num_waiting == 2 and first.num_waiting == 2)
    assert len(stages[0].started) == 4, "two are at the second stage, two wait for it, the others before the first"
    stages[1].go_on()
    assert [future.result(WAIT).text for future in futures] == ["xab"] * 6
    assert max(stage.most for stage in stages) <= 2
    pipeline.close()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_at_any_stage_ends_that_request_alone(place: int) -> None:
    stages = [FakeStage(letter, 0.01, bad="bad" + "abc"[:index]) for index, letter in enumerate("abc")]
    for index, stage in enumerate(stages):
        stage.bad = "bad" + "abc"[:index] if index == place else "never"
    pipeline = pipeline_of(stages)
    bad = send(pipeline, "bad", "bad")
    good = [send(pipeline, f"r{i}", "x") for i in range(8)]
    output = bad.result(WAIT)
    assert "can't take bad" in str(output.error)
    assert len(output.stages) == place + 1
    assert output.images == []
    assert [future.result(WAIT).text for future in good] == ["xabc"] * 8
    assert pipeline.stats()[place]["failed"] == 1
    assert all(not link.slots.inside for link in pipeline.links)
    pipeline.close()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_abort_at_any_stage_ends_the_request_there(place: int) -> None:
    stages = [FakeStage(letter, None if index == place else 0.0) for index, letter in enumerate("abc")]
    pipeline = pipeline_of(stages)
    future = send(pipeline, "gone", "x")
    until(lambda: "gone" in stages[place].live)
    assert pipeline.abort("gone")
    assert isinstance(future.result(WAIT).error, AbortedError)
    assert not pipeline.abort("gone")
    assert not stages[place].live
    assert all(not link.slots.inside for link in pipeline.links)
    pipeline.close()


def test_a_request_that_waits_for_its_turn_is_aborted_at_once() -> None:
    stages = [FakeStage("a"), FakeStage("b", None)]
    pipeline = pipeline_of(stages, limit=1)
    send(pipeline, "first", "x")
    until(lambda: bool(stages[1].live))
    waiting = [send(pipeline, name, "x") for name in ("second", "third")]
    until(lambda: pipeline.stats()[1]["waiting"] == 1 and pipeline.stats()[0]["waiting"] == 1)
    for name, future in zip(("second", "third"), waiting, strict=True):
        assert pipeline.abort(name)
        assert isinstance(future.result(WAIT).error, AbortedError)
    pipeline.abort("first")
    pipeline.close()


def test_a_timeout_ends_a_request_at_whatever_stage_it_is() -> None:
    pipeline = pipeline_of([FakeStage("a"), FakeStage("b", None)])
    output = send(pipeline, "late", "x", timeout_s=0.1).result(WAIT)
    assert isinstance(output.error, DeadlineExceededError)
    pipeline.close()


def test_a_handoff_that_fails_is_that_requests_error() -> None:
    handoff = HandoffConfig(function="tests.stages.test_pipeline:picky")
    pipeline = pipeline_of([FakeStage("a"), FakeStage("b")], handoffs={1: handoff})
    bad, good = send(pipeline, "bad", "no"), send(pipeline, "good", "yes")
    assert "picky" in str(bad.result(WAIT).error)
    assert good.result(WAIT).text == "YESAb"
    pipeline.close()


def picky(handover, **_):  # type: ignore[no-untyped-def]
    if "no" in handover.output.text:
        raise ValueError("picky says no")
    return handover.output.text.upper()


def test_a_failed_stage_is_forgiven_where_the_handoff_says_so() -> None:
    handoff = HandoffConfig(function="text_to_prompt", on_error="user_prompt")
    pipeline = pipeline_of([FakeStage("a"), FakeStage("b", bad="never")], handoffs={1: handoff})
    output = send(pipeline, "r", "bad idea").result(WAIT)
    assert output.error is None
    assert output.text == "bad ideab"
    assert output.stages[0].error is not None
    pipeline.close()


def test_progress_says_which_stage_and_outputs_of_stages_come_when_asked_for() -> None:
    pipeline = pipeline_of([FakeStage("a"), FakeStage("b")])
    seen: list[Progress] = []
    output = send(pipeline, "r", "x", tell=seen.append, return_stages=True).result(WAIT)
    assert [(event.stage, event.text) for event in seen] == [(0, "a"), (1, "b")]
    assert [one.text for one in output.stages] == ["xa", "xab"]
    plain = send(pipeline, "q", "x").result(WAIT)
    assert [one.text for one in plain.stages] == [None, None], "only the metrics"
    pipeline.close()


def test_closing_ends_everything_and_refuses_more() -> None:
    pipeline = pipeline_of([FakeStage("a", None), FakeStage("b")], limit=1)
    futures = [send(pipeline, f"r{i}", "x") for i in range(3)]
    until(lambda: pipeline.stats()[0]["waiting"] == 2)
    pipeline.close()
    assert all(isinstance(future.result(WAIT).error, EngineClosedError) for future in futures)
    with pytest.raises(EngineClosedError):
        send(pipeline, "more", "x")


def test_an_id_in_use_is_refused() -> None:
    pipeline = pipeline_of([FakeStage("a", None)])
    send(pipeline, "same", "x")
    with pytest.raises(InvalidRequestError, match="already in use"):
        send(pipeline, "same", "x")
    pipeline.close()


def until(true, seconds: float = WAIT) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)
