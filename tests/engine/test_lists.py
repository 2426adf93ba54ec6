"""Requests with equal parameters as one call with lists: each gets what it would have got alone."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_output import FluxPipelineOutput
from tiny import tiny_flux

from interlace import Engine
from interlace.engine.lists.joined import CannotPartError, alike, joined, list_key, parted
from interlace.engine.policy.cost import CostModel
from interlace.errors import AbortedError

PROMPTS = ["a", "bb", "a longer one", "c", "d"]


@pytest.fixture(autouse=True)
def _costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as can be always pays, whatever else the machine does."""
    monkeypatch.setattr(CostModel, "widest", lambda self, shape, rows: rows)
    monkeypatch.setattr(CostModel, "best_rows", lambda self, shape, rows: rows)
    monkeypatch.setattr(CostModel, "seconds", lambda self, shape, rows=1: 0.001)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    pipeline = tiny_flux()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def request(number: int, **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    sizes = {"height": 16, "width": 16, "num_inference_steps": 4, "max_sequence_length": 16}
    return {"prompt": PROMPTS[number], "generator": generator, "output_type": "np", **sizes, **more}


def requests(**more: Any) -> list[dict[str, Any]]:
    return [request(number, **more) for number in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def alone(pipeline: Any) -> list[Any]:
    return [pipeline(**one).images[0] for one in requests()]


@pytest.fixture
def engine(pipeline: Any) -> Iterator[Engine]:
    """One that knows what a forward costs."""
    with Engine(pipeline) as engine:
        engine.map(requests())
        yield engine


def assert_equal(outputs: list[Any], alone: list[Any]) -> None:
    for output, image in zip(outputs, alone, strict=True):
        assert output.images.shape == (1, *image.shape)
        np.testing.assert_allclose(output.images[0], image, atol=1e-4)


def test_requests_that_start_together_are_one_call_and_equal_to_alone(engine: Engine, alone: list[Any]) -> None:
    assert engine.stats()["lists"]["calls"] == 0
    for turn in (1, 2):  # the first is checked
        own = requests()
        assert_equal(engine.map(own), alone)
        assert engine.stats()["lists"] == {"calls": turn, "requests": 5 * turn, "apart": []}
    stock = [torch.Generator().manual_seed(n) for n in range(5)]
    for generator in stock:
        torch.randn(1, 4, 8, 8, generator=generator)  # what the pipeline draws
    assert [g["generator"].get_state().tolist() for g in own] == [g.get_state().tolist() for g in stock]
    assert engine.stats()["requests"]["ok"] == 15


def test_apart_they_are_equal_too(pipeline: Any, alone: list[Any]) -> None:
    with Engine(pipeline, join_equal=False) as engine:
        for _ in range(2):
            assert_equal(engine.map(requests()), alone)
        assert engine.stats()["lists"]["calls"] == 0


def test_requests_of_other_steps_are_other_calls_that_share_forwards(engine: Engine, pipeline: Any) -> None:
    engine.map(requests())
    expected = [pipeline(**request(n, num_inference_steps=s)).images[0] for n, s in enumerate((3, 3, 5, 5, 6))]
    for _ in range(2):  # what two calls with lists share is checked first
        before = engine.stats()
        mixed = [request(n, num_inference_steps=steps) for n, steps in enumerate((3, 3, 5, 5, 6))]
        assert_equal(engine.map(mixed), expected)
    after = engine.stats()
    assert after["lists"]["calls"] - before["lists"]["calls"] == 2
    assert after["rows"]["transformer"] - before["rows"]["transformer"] == 22
    widths = {
        n: count - before["widths"]["transformer"].get(n, 0) for n, count in after["widths"]["transformer"].items()
    }
    assert widths[5], widths


def test_lists_of_another_length_are_nothing_new_to_verify(engine: Engine, pipeline: Any) -> None:
    def turn(*steps: int) -> int:
        """How much was verified."""
        before = engine.stats()["verified"]
        expected = [pipeline(**request(n, num_inference_steps=s)).images[0] for n, s in enumerate(steps)]
        assert_equal(engine.map([request(n, num_inference_steps=s) for n, s in enumerate(steps)]), expected)
        return engine.stats()["verified"] - before

    assert turn(3, 3, 5, 5, 6) + turn(3, 3, 3, 5, 5)  # lists are checked, and what they share with single requests
    assert [turn(4, 4, 4, 4, 5), turn(3, 6, 6, 6, 6), turn(3, 3, 3, 5, 5)] == [0, 0, 0]


def test_who_is_aborted_leaves_and_the_others_stay_equal(engine: Engine, alone: list[Any]) -> None:
    engine.map(requests())
    stepped = threading.Event()

    def on_step(step: int, num_steps: int, latents: Any) -> None:
        if step == 2:
            engine.abort("second")
            stepped.set()

    with engine.paused():
        futures = [
            engine.submit(one, request_id="second" if n == 1 else None, on_step=on_step if n == 0 else None)
            for n, one in enumerate(requests())
        ]
    with pytest.raises(AbortedError):
        futures[1].result(60)
    assert stepped.is_set()
    assert_equal([f.result(60) for n, f in enumerate(futures) if n != 1], [a for n, a in enumerate(alone) if n != 1])
    assert engine.stats()["lists"]["calls"] == 2
    assert engine.stats()["requests"] == {"ok": 14, "error": 0, "aborted": 1, "live": 0}


def test_a_call_that_nobody_waits_for_ends(engine: Engine, alone: list[Any]) -> None:
    engine.map(requests())

    def stop(step: int, num_steps: int, latents: Any) -> None:
        for number in range(len(PROMPTS)):
            engine.abort(f"own {number}")

    with engine.paused():
        futures = [engine.submit(one, request_id=f"own {n}", on_step=stop) for n, one in enumerate(requests())]
    assert all(isinstance(future.exception(60), AbortedError) for future in futures)
    assert engine.forwarding() == ()
    assert_equal(engine.map(requests()), alone)


def test_each_hears_of_its_own_steps(engine: Engine) -> None:
    engine.map(requests())
    heard: dict[int, list[tuple[str, int]]] = {n: [] for n in range(len(PROMPTS))}
    with engine.paused():
        futures = [
            engine.submit(one, listener=lambda e, n=n: heard[n].append((e.kind, e.step)))
            for n, one in enumerate(requests())
        ]
    tickets = [(future.result(60), future.ticket)[1] for future in futures]
    told = [("started", 0), *(("step", n) for n in (1, 2, 3, 4)), ("ended", 4)]
    assert list(heard.values()) == [told] * len(PROMPTS)
    assert {ticket.metrics.num_steps for ticket in tickets} == {4}
    assert all(ticket.metrics.mean_rows > 1 and ticket.metrics.total_s > 0 for ticket in tickets)


def test_where_forwards_are_long_requests_run_apart(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostModel, "seconds", lambda self, shape, rows=1: 1.0)
    engine.map(requests())
    monkeypatch.setattr(CostModel, "seconds", lambda self, shape, rows=1: 0.001)
    monkeypatch.setattr(CostModel, "widest", lambda self, shape, rows: 1)  # and where a row alone is as quick
    engine.map(requests())
    assert engine.stats()["lists"]["calls"] == 0


def test_who_needs_to_be_alone_runs_apart(engine: Engine) -> None:
    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return tensors

    shared = torch.Generator().manual_seed(0)
    for more in ({"callback_on_step_end": callback}, {"num_images_per_prompt": 2}, {"generator": shared}):
        for _ in range(2):
            assert not [one for one in engine.map(requests(**more)) if isinstance(one, Exception)]
    with engine.paused():
        futures = [engine.submit(one, timeout_s=600) for one in requests()]
        futures += [engine.submit(one, preview_every=1, on_step=lambda *_: None) for one in requests()]
    for future in futures:
        future.result(60)
    assert engine.stats()["lists"]["calls"] == 0


def _unlike(self: Any, *args: Any, **kwargs: Any) -> Any:
    latents, ids = FluxPipeline.prepare_latents(self, *args, **kwargs)
    return latents + torch.arange(len(latents)).view(-1, 1, 1), ids


def _no_lists(self: Any, prompt: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(prompt, list):
        raise ValueError("one prompt at a time")
    return FluxPipeline.encode_prompt(self, prompt, *args, **kwargs)


@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [("prepare_latents", _unlike, "different outputs"), ("encode_prompt", _no_lists, "one prompt at a time")],
)
def test_where_lists_come_to_something_else_requests_run_apart(
    name: str, method: Any, reason: str, alone: list[Any]
) -> None:
    pipeline = tiny_flux()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.__class__ = type("FluxPipeline", (type(pipeline),), {name: method})
    with Engine(pipeline) as engine:
        for _ in range(3):
            assert_equal(engine.map(requests()), alone)
        lists = engine.stats()["lists"]
        assert lists["calls"] == 1
        assert reason in lists["apart"][0]


def test_lists_of_arguments_and_parts_of_outputs() -> None:
    own = requests(negative_prompt=None)
    assert len({list_key(one) for one in own}) == 1
    assert list_key({**own[0], "height": 24}) != list_key(own[0])
    assert list_key({**own[0], "image": torch.zeros(1)}) is None
    assert list_key({**own[0], "return_dict": False}) is None
    together = joined(own)
    assert together["prompt"] == PROMPTS
    assert together["negative_prompt"] is None
    assert together["generator"][0] is not own[0]["generator"]
    parts = parted(FluxPipelineOutput(images=np.zeros((2, 4, 4, 3))), 2)
    parts[0].images[:] = 1
    assert not alike(*parts)
    assert parts[1].images.max() == 0
    with pytest.raises(CannotPartError):
        parted(FluxPipelineOutput(images=[1]), 2)
