"""The step cache: skipped calls join no forward, and only a request's own history decides."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from interlace import Engine
from interlace.engine.caches.step import StepCache
from interlace.engine.calls.call import ModuleCall, Target
from interlace.errors import AbortedError, InvalidRequestError
from tests.tiny import tiny_flux
from tests.zoo import FAMILIES

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
    return Engine(pipeline, cache_type="step_cache", cache_threshold=threshold, max_batch_rows=None, **options)


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


@pytest.mark.parametrize("name", ["sdxl", "z-image", "flux-controlnet", "wan-2.2", "glm-image"])
def test_families_of_every_shape_are_served(name: str) -> None:
    family = FAMILIES[name]
    with cached(family.build(), threshold=1e9, hold_guidance_after=0.5) as engine:
        future = engine.submit({**family.requests()[0], "num_inference_steps": 8})
        future.result()
        skipped = future.ticket.metrics.num_skipped  # type: ignore[attr-defined]
    assert (skipped > 0) is (name != "glm-image")  # its calls carry a cache of their own: always run


def test_several_sizes_share_forwards_and_keep_their_own_caches() -> None:
    pipeline = FAMILIES["flux"].build()
    sizes = [(128, 128), (112, 128), (128, 120)]
    make = [{**FAMILIES["flux"].requests()[0], "num_inference_steps": 8, "height": h, "width": w} for h, w in sizes]

    def requests() -> list[dict[str, Any]]:
        return [{**kwargs, "generator": torch.Generator().manual_seed(n)} for n, kwargs in enumerate(make)]

    with cached(pipeline, resolution_tolerance=0.2) as engine:
        alone = [engine.map([kwargs])[0].images for kwargs in requests()]
        ran = engine.stats()["forwards"]["transformer"]
        together = engine.map(requests())
        stats = engine.stats()
    assert stats["skipped"] > 0
    assert stats["unfused"] == {}
    assert stats["forwards"]["transformer"] - ran < ran
    for images, output in zip(alone, together, strict=True):
        assert float(np.abs(output.images - images).max()) < 1e-4


def test_an_abort_and_an_error_leave_the_others_and_no_memory(pipeline: FluxPipeline) -> None:
    def fail(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 8:
            raise RuntimeError("mine")
        return {}

    with cached(pipeline) as engine:
        expected = engine.map([request(1)])[0].images
        stopped = engine.submit(
            request(2), request_id="stopped", on_step=lambda done, total, _: done == 6 and engine.abort("stopped")
        )
        failing = engine.submit(request(3, callback_on_step_end=fail))
        kept = engine.submit(request(1))
        assert float(np.abs(kept.result().images - expected).max()) < 1e-4
        assert isinstance(stopped.exception(), AbortedError)
        assert "mine" in str(failing.exception())
        for future in (stopped, failing, kept):
            assert future.ticket.step_cache is None  # type: ignore[attr-defined]


def test_a_cache_that_fails_is_that_requests_error(pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StepCache.store

    def failing(self: StepCache, call: ModuleCall, output: Any) -> None:
        if call.named["hidden_states"].shape[1] < 64:  # the smaller picture
            raise torch.OutOfMemoryError("no memory for a copy")
        store(self, call, output)

    monkeypatch.setattr(StepCache, "store", failing)
    with cached(pipeline) as engine:
        fails, works = engine.map([request(1, height=16), request(2)])
        assert isinstance(fails, torch.OutOfMemoryError)
        assert not isinstance(works, BaseException)


def test_the_same_latents_again_teach_nothing() -> None:
    layer = torch.nn.Linear(4, 4)
    target = Target.of("transformer", layer, "forward", layer.forward)
    cache = StepCache(0.1)

    def call(value: float) -> ModuleCall:
        return ModuleCall(target, (torch.full((1, 2, 4), value),), {}, None)

    for value in (1.0, 2.0, 2.0):
        cache.store(call(value), torch.full((1, 2, 4), 3 * value))
    assert cache.lookup(call(2.001), 5, 10) is not None
    assert cache.lookup(call(3.0), 6, 10) is None
