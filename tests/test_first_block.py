"""First block cache: equal to diffusers' own when alone, and row by row in company."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig

from interlace import Engine
from interlace.errors import InvalidRequestError
from interlace.models.optimize import Optimizations
from tests.tiny import tiny_flux
from tests.zoo import FAMILIES

STEPS, THRESHOLD = 14, 0.3


def flux_request(number: int, **changes: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "prompt": f"number {number}", "height": 32, "width": 32, "num_inference_steps": STEPS, "output_type": "np",
        "max_sequence_length": 16, "generator": torch.Generator().manual_seed(number),
    }  # fmt: skip
    return kwargs | changes


def diffusers_own(pipeline: DiffusionPipeline, kwargs: dict[str, Any]) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=THRESHOLD))
    try:
        return pipeline(**kwargs).images
    finally:
        pipeline.transformer.disable_cache()


def engine(pipeline: DiffusionPipeline) -> Engine:
    return Engine(pipeline, cache_type="first_block_cache", cache_threshold=THRESHOLD, max_batch_rows=None)


def test_alone_and_in_company_it_equals_diffusers_own_cache() -> None:
    pipeline = tiny_flux()
    changes: list[dict[str, Any]] = [
        {}, {"num_inference_steps": 9}, {"true_cfg_scale": 3.0, "negative_prompt": "blue"}, {"height": 16},
    ]  # fmt: skip
    make: Callable[[int], dict[str, Any]] = lambda n: flux_request(n, **changes[n % 4])  # noqa: E731
    expected = [diffusers_own(pipeline, make(n)) for n in range(8)]
    with engine(pipeline) as opened:
        alone = [opened.map([make(n)])[0].images for n in range(8)]
        assert opened.stats()["skipped"] > 0
        together = opened.map([make(n) for n in range(8)])
        stats = opened.stats()
    assert stats["mean_rows"]["transformer"] > 1
    assert stats["unfused"] == {}
    for n in range(8):
        assert float(np.abs(alone[n] - expected[n]).max()) < 1e-5
        assert float(np.abs(together[n].images - expected[n]).max()) < 1e-4


@pytest.mark.parametrize("name", ["sd3", "qwen-image"])
def test_other_families_whose_blocks_are_known(name: str) -> None:
    family = FAMILIES[name]
    pipeline = family.build()
    requests = [{**kwargs, "num_inference_steps": 8} for kwargs in family.requests()[:3]]
    with engine(pipeline) as opened:
        results = opened.map(requests)
        assert not [r for r in results if isinstance(r, BaseException)]
    assert not any("forward" in vars(block) for block in pipeline.transformer.transformer_blocks)


def test_a_denoiser_that_it_does_not_know_is_refused() -> None:
    pipeline = FAMILIES["sd15-ddim"].build()
    with pytest.raises(InvalidRequestError, match="use step_cache"):
        engine(pipeline)
    assert "forward" not in vars(pipeline.unet), "left as it was"


def test_compiled_blocks_are_refused() -> None:
    pipeline = tiny_flux()
    Optimizations(names=("compile",)).apply(pipeline)
    with pytest.raises(InvalidRequestError, match="leave out enable_compile"):
        engine(pipeline)
