"""`Omni(replicas=2)`: the demo model in two processes draws what one engine draws, also when one is killed."""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from interlace import Omni, SamplingParams
from interlace.errors import AbortedError, InvalidRequestError, ModelLoadError
from interlace.models.loader import load_model
from interlace.request import Output

WAIT_S = 300


@pytest.fixture(scope="module")
def two() -> Iterator[Omni]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        omni = Omni(model="demo", replicas=2, max_num_seqs=8)
    yield omni
    omni.close()


def mixed(number: int) -> list[dict[str, Any]]:
    """Requests of several sizes, steps and guidances."""
    choose = random.Random(7)
    return [
        {
            "prompt": f"a red circle {i}",
            "seed": i,
            "num_inference_steps": choose.choice([1, 2, 3]),
            "guidance_scale": choose.choice([1.0, 3.5]),
            "height": choose.choice([64, 96]),
            "width": 64,
        }
        for i in range(number)
    ]


def pixels(output: Output) -> np.ndarray[Any, Any]:
    assert output.error is None, output.error
    return np.asarray(output.images[0], dtype=np.int16)


def test_two_processes_draw_what_one_engine_draws_through_aborts_and_a_kill(two: Omni) -> None:
    requests = mixed(64)
    with Omni(model="demo", max_num_seqs=8) as one:
        alone = one.generate(requests)
    begun: set[str] = set()
    aborted = {f"r{i}" for i in (10, 40, 63)}
    for i in (10, 40, 63):
        requests[i] |= {"num_inference_steps": 100_000}  # it has not ended when it is aborted
    futures = [
        two.submit(request, request_id=f"r{i}", on_progress=lambda progress: begun.add(progress.request_id))
        for i, request in enumerate(requests)
    ]
    for name in aborted:
        two.abort(name)
    until = time.monotonic() + 2 * WAIT_S
    while len(begun) < 12 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(two.engine.stats()["replicas"][0]["pid"], signal.SIGKILL)
    outputs = [future.result(WAIT_S) for future in futures]

    assert [output.request_id for output in outputs] == [f"r{i}" for i in range(64)]
    for output, expected in zip(outputs, alone, strict=True):
        if output.request_id in aborted:
            assert isinstance(output.error, AbortedError)
        else:
            assert np.abs(pixels(output) - pixels(expected)).max() <= 1  # rounding, in eight bits
            assert output.seeds == expected.seeds
    while two.engine.stats()["replicas"][0]["restarts"] == 0 and time.monotonic() < until:
        time.sleep(0.01)  # its death is noticed a moment later
    assert two.engine.stats()["replicas"][0]["restarts"] == 1


def test_previews_progress_and_several_images_come_across(two: Omni) -> None:
    told: list[Any] = []
    params = SamplingParams(num_inference_steps=4, num_images=3, seed=5, width=64, height=64)
    output = two.submit("a blue star", params, on_progress=told.append, preview_every=2).result(WAIT_S)
    assert output.seeds == [5, 6, 7]
    assert len(output.images) == 3
    assert {progress.step for progress in told if progress.preview is None} >= {1, 2, 3, 4}
    assert [progress.step for progress in told if progress.preview is not None] == [2, 2, 2], "before the output"


def test_what_cannot_be_is_refused_at_the_door_and_in_the_process(two: Omni) -> None:
    output = two.generate({"prompt": "x", "height": 65})[0]
    assert isinstance(output.error, InvalidRequestError)
    assert output.error.param == "height"
    with pytest.raises(InvalidRequestError, match="loaded in this process"):
        Omni(load_model("demo"), replicas=2)
    with pytest.raises(InvalidRequestError, match="replicas"):
        Omni(model="demo", replicas=0)
    with pytest.raises(ModelLoadError, match="nowhere"):
        Omni(model="/nowhere", replicas=2)


def test_a_timeout_holds_and_the_model_is_described(two: Omni) -> None:
    late = two.generate({"prompt": "x", "num_inference_steps": 500, "timeout_s": 0.3})[0]
    assert isinstance(late.error, TimeoutError)
    facts = two.describe()
    assert facts["pipeline"] == "FluxPipeline"
    assert facts["stages"][0]["replicas"] == 2
    assert "guidance_scale" in two.arguments.parameters
    assert sum(two.engine.stats()["forwards"].values()) > 0


def test_adapters_are_named_to_replicas_which_load_them(two: Omni) -> None:
    request = {
        "prompt": "a red circle",
        "seed": 3,
        "num_inference_steps": 2,
        "lora": [{"name": "outline", "scale": 0.8}],
    }
    with Omni(model="demo") as one:
        alone = one.generate([request])[0]
    here, unknown = two.generate([request, {**request, "lora": "no-such-style"}])
    assert np.abs(pixels(here) - pixels(alone)).max() <= 1
    assert "outline" in str(unknown.error)
    assert {"outline", "pastel"} <= set(two.pipeline.drawing.loras.names)
