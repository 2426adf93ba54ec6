"""Held guidance: late steps ask once, in calls of their own or in half of the rows, and nobody else is touched."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline

from interlace import Engine
from interlace.errors import InvalidRequestError
from interlace.request import Metrics, SamplingParams
from tests.test_families import arrays, stock
from tests.tiny import tiny_flux
from tests.zoo import FAMILIES

STEPS = 10


@pytest.fixture(scope="module")
def flux() -> FluxPipeline:
    return tiny_flux()


def request(number: int, **changes: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "prompt": f"number {number}", "negative_prompt": "blue", "true_cfg_scale": 3.0, "height": 32, "width": 32,
        "num_inference_steps": STEPS, "max_sequence_length": 16, "output_type": "np",
        "generator": torch.Generator().manual_seed(number),
    }  # fmt: skip
    return kwargs | changes


def zoo_request(name: str, number: int = 0) -> dict[str, Any]:
    return {**FAMILIES[name].requests()[number], "num_inference_steps": STEPS}


def run(engine: Engine, kwargs: dict[str, Any], **options: Any) -> tuple[Any, Metrics]:
    future = engine.submit(kwargs, **options)
    return future.result(), future.ticket.metrics  # type: ignore[attr-defined]


def held_by_hand(pipeline: FluxPipeline, kwargs: dict[str, Any], after: float) -> Any:
    """The stock pipeline, its second call of every late step replaced by the first and the last difference."""
    forward, seen = pipeline.transformer.forward, []
    difference = torch.zeros(())

    def held(*args: Any, **named: Any) -> Any:
        nonlocal difference
        step, second = divmod(len(seen), 2)
        if second and step >= after * STEPS:
            seen.append(seen[-1] + difference)
            return (seen[-1],)
        seen.append(forward(*args, **named)[0])
        if second:
            difference = seen[-1] - seen[-2]
        return (seen[-1],)

    pipeline.transformer.forward = held
    try:
        return stock(pipeline, kwargs)
    finally:
        del pipeline.transformer.__dict__["forward"]


def test_calls_of_their_own_follow_at_the_last_difference(flux: FluxPipeline) -> None:
    expected = held_by_hand(flux, request(1), 0.6).images
    with Engine(flux, hold_guidance_after=0.6) as engine:
        output, metrics = run(engine, request(1))
        stats = engine.stats()
    assert np.array_equal(output.images, expected)
    assert metrics.num_guidance_held == stats["guidance_held"] == 4
    assert stats["forwards"]["transformer"] == 2 * STEPS - 4


@pytest.mark.parametrize("name", ["sdxl", "sd3", "sd15-ddim", "z-image"])
def test_of_doubled_rows_only_half_are_computed(name: str) -> None:
    pipeline = FAMILIES[name].build()
    denoiser = FAMILIES[name].denoisers[0]
    with Engine(pipeline) as plain:
        expected, _ = run(plain, zoo_request(name))
        rows = plain.stats()["rows"][denoiser]
    with Engine(pipeline, hold_guidance_after=0.6) as engine:
        run(engine, zoo_request(name))  # tries halves once
        before = engine.stats()["rows"][denoiser]
        output, metrics = run(engine, zoo_request(name))
        assert engine.stats()["rows"][denoiser] - before == rows - metrics.num_guidance_held
    assert metrics.num_guidance_held == 4
    error = max(float(np.abs(a - b).max()) for a, b in zip(arrays(output), arrays(expected), strict=True))
    assert 0 < error < 0.2


def test_requests_may_differ_and_batch_mates_do_not_change_the_image() -> None:
    pipeline = FAMILIES["sdxl"].build()
    afters = [None, 0.3, 0.6, 1.0]
    with Engine(pipeline, hold_guidance_after=0.5) as engine:
        alone = [run(engine, zoo_request("sdxl", n), hold_guidance_after=afters[n]) for n in range(4)]
    with Engine(pipeline, hold_guidance_after=0.5) as engine:
        futures = [engine.submit(zoo_request("sdxl", n), hold_guidance_after=afters[n]) for n in range(4)]
        for (expected, metrics), future in zip(alone, futures, strict=True):
            got = future.result()
            assert max(float(np.abs(a - b).max()) for a, b in zip(arrays(got), arrays(expected), strict=True)) < 1e-4
            assert future.ticket.metrics.num_guidance_held == metrics.num_guidance_held  # type: ignore[attr-defined]
    assert [metrics.num_guidance_held for _, metrics in alone] == [5, 0, 4, 0]  # the second has no guidance at all


def test_pictures_in_one_call_are_not_taken_for_guidance(flux: FluxPipeline) -> None:
    kwargs = request(3, true_cfg_scale=1.0, num_images_per_prompt=2)
    with Engine(flux) as plain:
        expected, _ = run(plain, dict(kwargs, generator=torch.Generator().manual_seed(3)))
    with Engine(flux, hold_guidance_after=0.0) as engine:
        output, metrics = run(engine, dict(kwargs, generator=torch.Generator().manual_seed(3)))
    assert np.array_equal(output.images, expected.images)
    assert metrics.num_guidance_held == 0


def test_halves_that_come_to_something_else_are_never_used() -> None:
    pipeline: DiffusionPipeline = FAMILIES["sdxl"].build()
    forward = pipeline.unet.forward

    def mixing(sample: Any, *args: Any, **kwargs: Any) -> Any:
        (output,) = forward(sample, *args, **kwargs)
        return (output + 0.1 * output.mean(dim=0, keepdim=True),)

    pipeline.unet.forward = mixing
    expected = stock(pipeline, zoo_request("sdxl"))
    with Engine(pipeline, hold_guidance_after=0.5) as engine:
        output, metrics = run(engine, zoo_request("sdxl"))
    assert metrics.num_guidance_held == 0
    assert np.array_equal(arrays(output)[0], arrays(expected)[0])


def test_it_goes_with_the_step_cache(flux: FluxPipeline) -> None:
    with Engine(flux, hold_guidance_after=0.6, cache_type="step_cache", cache_threshold=0.3) as engine:
        output, metrics = run(engine, request(1))
        assert engine.stats()["forwards"]["transformer"] + metrics.num_skipped + metrics.num_guidance_held == 2 * STEPS
    assert metrics.num_guidance_held == 4
    assert metrics.num_skipped > 0
    assert np.isfinite(output.images).all()


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_outside_the_schedule_are_refused(value: float) -> None:
    with pytest.raises(InvalidRequestError, match="hold_guidance_after"):
        SamplingParams(hold_guidance_after=value)
    with pytest.raises(InvalidRequestError, match="hold_guidance_after"):
        Engine(tiny_flux(), hold_guidance_after=value)
