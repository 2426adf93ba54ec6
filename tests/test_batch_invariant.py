"""Batch-invariant mode: the same bits in any company, in any order, beside joins and aborts."""

import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from interlace import Engine
from interlace.config import EngineConfig
from tests.tiny import tiny_flux

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return tiny_flux()


@pytest.fixture
def engine(pipeline: FluxPipeline) -> Iterator[Engine]:
    with Engine(pipeline, batch_invariant=True) as opened:
        yield opened


def request(number: int) -> dict[str, Any]:
    """Any of 24 requests: sizes, steps, guidance, half of them under classifier-free guidance."""
    rng = random.Random(number)
    return {
        "prompt": f"number {number}",
        "negative_prompt": "blue" if number % 2 else None,
        "true_cfg_scale": 3.0 if number % 2 else 1.0,
        "height": rng.choice((16, 32)),
        "width": 16,
        "num_inference_steps": rng.randint(1, 5),
        "guidance_scale": rng.uniform(1, 5),
        "max_sequence_length": 16,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(number),
    }


def test_the_same_bits_in_any_company(engine: Engine) -> None:
    numbers = list(range(24))
    alone = {number: engine.map([request(number)])[0].images for number in numbers}
    rng = random.Random(0)
    for _ in range(3):
        rng.shuffle(numbers)
        futures: list[tuple[int, Any]] = []
        for number in numbers:
            futures.append((number, engine.submit(request(number))))
            if rng.random() < 0.2:
                doomed = engine.submit(request(rng.randrange(24)), request_id=f"doomed-{time.monotonic_ns()}")
                engine.abort(doomed.ticket.request_id)  # type: ignore[attr-defined]
            if rng.random() < 0.3:
                time.sleep(0.01)
        for number, future in futures:
            assert np.array_equal(future.result().images, alone[number])


def test_every_forward_has_the_same_number_of_rows(engine: Engine) -> None:
    for _ in range(2):
        engine.map([request(number) for number in (2, 4, 2)])  # verifies, which runs calls alone as well
    before = engine.stats()
    engine.map([request(number) for number in (2, 4, 2)])
    after = engine.stats()
    forwards = after["forwards"]["transformer"] - before["forwards"]["transformer"]
    assert after["rows"]["transformer"] - before["rows"]["transformer"] == 4 * forwards


def test_it_equals_stock_diffusers(pipeline: FluxPipeline, engine: Engine) -> None:
    results = engine.map([request(number) for number in range(8)])
    pipeline.set_progress_bar_config(disable=True)
    for number, result in enumerate(results):
        assert float(np.abs(result.images - pipeline(**request(number)).images).max()) < 1e-5


def test_the_row_count_is_a_multiple_of_what_a_call_brings() -> None:
    config = EngineConfig(batch_invariant=True, max_batch_rows=5)
    assert [config.invariant_rows(rows) for rows in (1, 2, 3, 5, 7)] == [5, 4, 3, 5, 7]
    assert EngineConfig(batch_invariant=True).invariant_rows(2) == 4
