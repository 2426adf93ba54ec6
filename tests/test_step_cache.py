"""The step cache: skipped calls join no forward, and only a request's own history decides."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from interlace import Engine
from interlace.errors import InvalidRequestError
from tests.tiny import tiny_flux

STEPS = 16


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return tiny_flux()


def request(number: int, **changes: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "prompt": f"number {number}",
        "height": 32,
        "width": 32,
        "num_inference_steps": STEPS,
        "max_sequence_length": 16,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(number),
    }
    return kwargs | changes


def cached(pipeline: FluxPipeline, threshold: float = 0.3, **options: Any) -> Engine:
    return Engine(pipeline, cache_type="step_cache", cache_threshold=threshold, **options)


def test_calls_are_skipped_and_said_to_be(pipeline: FluxPipeline) -> None:
    with cached(pipeline) as engine:
        future = engine.submit(request(1))
        future.result()
        metrics, stats = future.ticket.metrics, engine.stats()  # type: ignore[attr-defined]
    assert 0 < metrics.num_skipped < STEPS - 4
    assert stats["skipped"] == metrics.num_skipped
    assert stats["forwards"]["transformer"] == STEPS - metrics.num_skipped


def test_the_first_steps_and_the_last_always_run(pipeline: FluxPipeline) -> None:
    with cached(pipeline, threshold=1e9) as engine:
        future = engine.submit(request(1))
        future.result()
        assert future.ticket.metrics.num_skipped == STEPS - 4  # type: ignore[attr-defined]


def test_without_tolerance_nothing_changes_by_a_bit(pipeline: FluxPipeline) -> None:
    with Engine(pipeline) as plain:
        expected = plain.map([request(1)])[0].images
    with cached(pipeline, threshold=0.0) as engine:
        assert np.array_equal(engine.map([request(1)])[0].images, expected)


def test_a_tighter_threshold_is_closer_to_the_uncached_image(pipeline: FluxPipeline) -> None:
    with Engine(pipeline) as plain:
        expected = plain.map([request(2)])[0].images
    errors = []
    for threshold in (0.05, 1e9):
        with cached(pipeline, threshold=threshold) as engine:
            errors.append(float(np.abs(engine.map([request(2)])[0].images - expected).mean()))
    assert errors[0] < errors[1]


def test_batch_mates_do_not_change_the_image(pipeline: FluxPipeline) -> None:
    changes = [{}, {"num_inference_steps": 9}, {"negative_prompt": "blue", "true_cfg_scale": 3.0}, {"height": 16}]
    requests = [(n, changes[n % 4]) for n in range(16)]
    with cached(pipeline) as engine:
        alone = {n: engine.map([request(n, **change)])[0].images for n, change in requests[:4]}
    with cached(pipeline) as engine:
        together = engine.map([request(n, **change) for n, change in requests])
        assert engine.stats()["skipped"] > 0
    for n, images in alone.items():
        assert float(np.abs(together[n].images - images).max()) < 1e-4


def test_calls_with_and_without_the_prompt_are_kept_apart(pipeline: FluxPipeline) -> None:
    with cached(pipeline, threshold=1e9) as engine:
        future = engine.submit(request(1, negative_prompt="blue", true_cfg_scale=3.0))
        future.result()
        assert future.ticket.metrics.num_skipped == 2 * (STEPS - 4)  # type: ignore[attr-defined]


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="expected one of none, step_cache"):
        Engine(tiny_flux(), cache_type="teacache")
