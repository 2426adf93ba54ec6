"""The engine on a tiny FLUX: exactness, sharing, joining, and every kind of fault."""

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from interlace import Engine
from interlace.engine.pipeline.view import ViewFactory
from interlace.errors import (
    AbortedError,
    DeadlineExceededError,
    EngineClosedError,
    EngineDeadError,
    InvalidRequestError,
    NonFiniteOutputError,
)
from tests.tiny import tiny_flux

Kwargs = dict[str, Any]


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return tiny_flux()


@pytest.fixture
def engine(pipeline: FluxPipeline) -> Iterator[Engine]:
    with Engine(pipeline, max_batch_rows=None) as opened:  # whatever a busy machine measures
        yield opened


def request(seed: int = 0, *, steps: int = 4, **changes: Any) -> Kwargs:
    kwargs: Kwargs = {
        "prompt": f"a picture of number {seed}",
        "height": 16,
        "width": 16,
        "num_inference_steps": steps,
        "guidance_scale": 1.0 + seed,
        "max_sequence_length": 16,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(seed),
    }
    return kwargs | changes


def alone(pipeline: FluxPipeline, **arguments: Any) -> np.ndarray[Any, Any]:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**request(**arguments)).images


def difference(one: Any, other: Any) -> float:
    return float(np.abs(one.images - other).max())


def patched(pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any]) -> None:
    """Put `change(original, **kwargs)` in place of the transformer's forward."""
    original = pipeline.transformer.forward
    monkeypatch.setattr(pipeline.transformer, "forward", lambda **kwargs: change(original, **kwargs), raising=False)


def test_batched_equals_alone_with_different_steps_sizes_and_guidance(pipeline: FluxPipeline, engine: Engine) -> None:
    changes = [{}, {"steps": 7}, {"height": 32}, {"negative_prompt": "blue", "true_cfg_scale": 3.0}, {"height": 32}]
    results = engine.map([request(i, **change) for i, change in enumerate(changes)])
    for i, (change, result) in enumerate(zip(changes, results, strict=True)):
        assert difference(result, alone(pipeline, seed=i, **change)) < 1e-5
    assert engine.stats()["unfused"] == {}


def test_what_its_time_went_into_never_shrinks_while_it_draws(engine: Engine) -> None:
    told = [engine.statistics().seconds]

    def on_step(*_step: Any) -> None:
        told.append(engine.statistics().seconds)

    engine.submit(request(1), on_step=on_step).result()
    told.append(engine.statistics().seconds)
    for part in ("forward", "strand", "engine"):
        spent = [getattr(seconds, part) for seconds in told]
        assert 0 <= spent[0] < spent[-1]
        assert spent == sorted(spent)


def test_a_request_alone_is_equal_to_the_last_bit(pipeline: FluxPipeline, engine: Engine) -> None:
    assert difference(engine.map([request(3)])[0], alone(pipeline, seed=3)) == 0


def test_equal_requests_share_every_forward(engine: Engine) -> None:
    engine.map([request(i) for i in range(4)])  # verifies
    before = engine.stats()["forwards"]["transformer"]
    engine.map([request(i) for i in range(4)])
    assert engine.stats()["forwards"]["transformer"] - before == 4


def test_requests_that_come_half_way_share_what_is_left(pipeline: FluxPipeline) -> None:
    engine = Engine(pipeline, max_batch_rows=None)
    engine.map([request(i, steps=4 + i) for i in range(3)])  # verifies
    joined: list[Any] = []

    def join(step: int, num_steps: int, latents: Any) -> None:
        if step == 5:
            joined.extend(engine.submit(request(i, steps=6)) for i in (1, 2))

    before = engine.stats()["forwards"]["transformer"]
    first = engine.submit(request(0, steps=12), on_step=join).result()
    results = [future.result() for future in joined]
    assert difference(first, alone(pipeline, seed=0, steps=12)) < 1e-5
    for i, result in zip((1, 2), results, strict=True):
        assert difference(result, alone(pipeline, seed=i, steps=6)) < 1e-5
    assert engine.stats()["forwards"]["transformer"] - before <= 14  # 12 + 6 + 6 alone
    engine.close()


def test_request_mode_runs_equal_requests_in_waves(pipeline: FluxPipeline) -> None:
    with Engine(pipeline, step_execution=False, max_num_seqs=4, request_batch_max_wait_ms=20) as engine:
        results = engine.map([request(i, guidance_scale=2.0) for i in range(4)] + [request(4, steps=6)])
    for i in range(4):
        assert difference(results[i], alone(pipeline, seed=i, guidance_scale=2.0)) < 1e-5
    assert difference(results[4], alone(pipeline, seed=4, steps=6)) == 0


def test_an_error_in_one_strand_ends_that_request_only(pipeline: FluxPipeline, engine: Engine) -> None:
    def fail(pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        raise RuntimeError("mine")

    results = engine.map([request(0), request(1, callback_on_step_end=fail), request(2)])
    assert isinstance(results[1], RuntimeError)
    assert str(results[1]) == "mine"
    for i in (0, 2):
        assert difference(results[i], alone(pipeline, seed=i)) < 1e-5


def test_bad_arguments_are_the_pipelines_own_error(engine: Engine) -> None:
    results = engine.map([request(0, nonsense=1), request(1)])
    assert isinstance(results[0], TypeError)
    assert hasattr(results[1], "images")


def test_a_row_that_breaks_a_fused_forward_is_found_by_halving(
    pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_on_guidance(original: Any, **kwargs: Any) -> Any:
        if (kwargs["guidance"] == 99).any():
            raise ValueError("unlucky row")
        return original(**kwargs)

    expected = [alone(pipeline, seed=i) for i in range(4)]
    patched(pipeline, monkeypatch, break_on_guidance)
    with Engine(pipeline, max_batch_rows=None) as engine:
        engine.map([request(i) for i in range(4)])
        results = engine.map([request(i, **({"guidance_scale": 99.0} if i == 2 else {})) for i in range(4)])
        assert isinstance(results[2], ValueError)
        assert engine.stats()["halved"] > 0
        assert engine.stats()["unfused"] == {}
    for i in (0, 1, 3):
        assert difference(results[i], expected[i]) < 1e-5


@pytest.mark.parametrize("options", [{}, {"resolution_tolerance": 0.0}])
def test_out_of_memory_halves_and_remembers_the_limit(
    pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    sizes: list[int] = []

    def small_device(original: Any, **kwargs: Any) -> Any:
        rows = kwargs["hidden_states"].shape[0]
        sizes.append(rows)
        if rows > 3:
            raise torch.OutOfMemoryError("simulated")
        return original(**kwargs)

    expected = [alone(pipeline, seed=i, steps=6) for i in range(6)]
    patched(pipeline, monkeypatch, small_device)
    with Engine(pipeline, max_batch_rows=None, **options) as engine:
        results = engine.map([request(i, steps=6) for i in range(6)])
        assert engine.stats()["out_of_memory"] >= 1
    for i, result in enumerate(results):
        assert difference(result, expected[i]) < 1e-5
    assert sizes.count(6) == 1, "the limit is kept: six rows are tried once"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_are_that_requests_error(pipeline: FluxPipeline, engine: Engine, bad: float) -> None:
    def poison(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.full_like(tensors["latents"], bad)}

    results = engine.map([request(0), request(1, callback_on_step_end=poison), request(2)])
    assert isinstance(results[1], NonFiniteOutputError)
    for i in (0, 2):
        assert difference(results[i], alone(pipeline, seed=i)) < 1e-5


def test_abort_before_during_and_after(pipeline: FluxPipeline) -> None:
    with Engine(pipeline, max_num_seqs=2) as engine:

        def abort_at_two(step: int, num_steps: int, latents: Any) -> None:
            if step == 2:
                engine.abort("queued")
                engine.abort("running")

        with engine.paused():  # all are there when the first is at its second step
            running = engine.submit(request(0, steps=50), request_id="running", on_step=abort_at_two)
            kept = engine.submit(request(1, steps=12))
            queued = engine.submit(request(2), request_id="queued")
            later = engine.submit(request(3))
        for future in (running, queued):
            assert isinstance(future.exception(), AbortedError)
        assert running.ticket.metrics.num_steps <= 3, "the slot is free at the next forward"  # type: ignore[attr-defined]
        assert difference(kept.result(), alone(pipeline, seed=1, steps=12)) < 1e-5
        assert difference(later.result(), alone(pipeline, seed=3)) < 1e-5
        assert engine.abort("running") is False
        assert engine.stats()["requests"] == {"ok": 2, "error": 0, "aborted": 2, "live": 0}


def test_a_deadline_ends_a_request_and_no_other(pipeline: FluxPipeline, engine: Engine) -> None:
    late = engine.submit(request(0, steps=100_000), timeout_s=0.3)
    kept = engine.submit(request(1))
    assert isinstance(late.exception(timeout=120), DeadlineExceededError)
    assert difference(kept.result(), alone(pipeline, seed=1)) < 1e-5


def test_death_of_the_engine_thread_reaches_every_request_at_once(
    pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(pipeline)
    with engine.paused():  # it dies with all of them
        monkeypatch.setattr(engine._core, "_schedule", lambda: 1 / 0)
        futures = [engine.submit(request(i)) for i in range(3)]
    done, _ = wait(futures, timeout=120)
    assert len(done) == 3
    assert all(isinstance(future.exception(), EngineDeadError) for future in futures)
    with pytest.raises(EngineDeadError):
        engine.submit(request())
    engine.close()
    assert "forward" not in vars(pipeline.transformer)


def test_close_leaves_the_pipeline_as_it_was_and_ends_what_is_pending(pipeline: FluxPipeline) -> None:
    alone(pipeline)  # diffusers leaves its own marks at the first call
    before = {name: set(vars(part)) for name, part in pipeline.components.items() if hasattr(part, "parameters")}
    engine = Engine(pipeline)
    started = threading.Event()
    future = engine.submit(request(steps=100_000), on_step=lambda *_: started.set())
    assert started.wait(120)
    engine.close()
    engine.close()
    assert isinstance(future.exception(), EngineClosedError)
    assert {name: set(vars(pipeline.components[name])) for name in before} == before
    with pytest.raises(EngineClosedError):
        engine.submit(request())


def test_the_pipeline_still_works_for_others_while_the_engine_is_open(pipeline: FluxPipeline, engine: Engine) -> None:
    expected = alone(pipeline, seed=5)
    future = engine.submit(request(6, steps=10))
    assert np.array_equal(alone(pipeline, seed=5), expected)
    assert difference(future.result(), alone(pipeline, seed=6, steps=10)) < 1e-5


def test_requests_share_tokenizers_that_nobody_else_uses(pipeline: FluxPipeline) -> None:
    """A tokenizer holds how its last call padded and cut: used from two threads, texts come out wrong now and then."""
    factory = ViewFactory(pipeline)
    one, other = factory.make(lambda *_: None), factory.make(lambda *_: None)
    assert one.tokenizer is other.tokenizer is not pipeline.tokenizer
    assert one.tokenizer_2 is other.tokenizer_2 is not pipeline.tokenizer_2
    assert one.tokenizer("a red cat").input_ids == pipeline.tokenizer("a red cat").input_ids


def test_a_module_that_mixes_rows_is_found_out_and_never_shared(
    pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mix(original: Any, **kwargs: Any) -> Any:
        return tuple(part + part.mean() for part in original(**kwargs))

    patched(pipeline, monkeypatch, mix)
    expected = [alone(pipeline, seed=i) for i in range(3)]
    with Engine(pipeline, max_batch_rows=None) as engine:
        results = engine.map([request(i) for i in range(3)] + [request(0), request(1)])
        assert list(engine.stats()["unfused"]) == ["transformer (FluxTransformer2DModel)"]
    for i in range(3):
        assert difference(results[i], expected[i]) < 1e-5
    assert sum("not shared" in record.message for record in caplog.records) == 1


def test_an_argument_used_from_the_first_row_only_is_found_out_when_it_first_differs(
    pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_row(original: Any, **kwargs: Any) -> Any:
        return original(**kwargs | {"guidance": kwargs["guidance"][:1].expand_as(kwargs["guidance"])})

    patched(pipeline, monkeypatch, first_row)
    expected = [alone(pipeline, seed=i, guidance_scale=float(i)) for i in range(3)]
    with Engine(pipeline, max_batch_rows=None) as engine:
        engine.map([request(i, guidance_scale=1.0) for i in range(3)])  # equal guidance: nothing to see
        assert engine.stats()["unfused"] == {}
        results = engine.map([request(i, guidance_scale=float(i)) for i in range(3)])
        assert engine.stats()["unfused"] != {}
    for i in range(3):
        assert difference(results[i], expected[i]) < 1e-5


def test_random_numbers_from_the_global_generator_are_each_strands_own(pipeline: FluxPipeline, engine: Engine) -> None:
    def noisy(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] + 0.1 * torch.randn(tensors["latents"].shape)}

    expected = []
    for i in range(3):
        torch.manual_seed(i)
        expected.append(alone(pipeline, seed=i, callback_on_step_end=noisy))
    results = engine.map([request(i, callback_on_step_end=noisy) for i in range(3)])
    for result, image in zip(results, expected, strict=True):
        assert difference(result, image) < 1e-5


def test_the_callers_autocast_holds_for_its_requests(pipeline: FluxPipeline, engine: Engine) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected = alone(pipeline, seed=1)
        future = engine.submit(request(1))
    plain = engine.submit(request(2))
    assert difference(future.result(), expected) == 0
    assert difference(plain.result(), alone(pipeline, seed=2)) < 1e-5
    assert not np.array_equal(expected, alone(pipeline, seed=1))


def test_nothing_is_kept_of_requests_that_have_ended(engine: Engine) -> None:
    engine.map([request(i) for i in range(3)])
    gc.collect()
    assert engine._core.tickets == []
    assert engine.live() == []


def test_what_is_no_pipeline_or_option_is_refused(pipeline: FluxPipeline, engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match="expected a loaded DiffusionPipeline"):
        Engine(object())  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="max_num_seqs is 0"):
        Engine(pipeline, max_num_seqs=0)
    future = engine.submit(request(steps=100_000), request_id="twice")
    with pytest.raises(InvalidRequestError, match="already in use"):
        engine.submit(request(), request_id="twice")
    engine.abort("twice")
    wait([future])


@pytest.mark.parametrize(("mode", "checks"), [("first", 1), ("always", 4), ("off", 0)])
def test_verification_runs_when_it_is_asked_for(pipeline: FluxPipeline, mode: str, checks: int) -> None:
    with Engine(pipeline, verify_fusion=mode, join_equal=False, max_batch_rows=None) as engine:
        engine.map([request(i, guidance_scale=2.0) for i in range(3)])
        before = engine.stats()["verified"]
        engine.map([request(i, guidance_scale=2.0) for i in range(3)])
        again = engine.stats()["verified"] - before
    if mode == "always":
        assert again >= checks, "every shared forward"
    else:
        assert again == 0, "kinds are known"
        assert (before > 0) == (checks > 0)


def test_with_verification_off_outputs_are_still_equal(pipeline: FluxPipeline) -> None:
    with Engine(pipeline, verify_fusion="off", max_batch_rows=None) as engine:
        results = engine.map([request(i, steps=3 + i) for i in range(3)])
    for i, result in enumerate(results):
        assert difference(result, alone(pipeline, seed=i, steps=3 + i)) < 1e-5
