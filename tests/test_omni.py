"""`Omni` and `AsyncOmni` on a tiny FLUX saved to a directory: requests in, outputs out."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from interlace import AsyncOmni, Omni, Output, Progress, SamplingParams
from interlace.engine.tickets import lobby
from interlace.errors import AbortedError, DeadlineExceededError, InvalidRequestError, ModelLoadError
from interlace.models.loader import load_model
from tests.tiny import save_tiny_flux

PARAMS = SamplingParams(height=16, width=16, num_inference_steps=3, seed=1, max_sequence_length=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_flux(path)
    return path


@pytest.fixture(scope="module")
def omni(folder: Path) -> Iterator[Omni]:
    with Omni(folder, max_batch_rows=None) as opened:  # "auto" shares where it was measured to pay
        yield opened


def stock(folder: Path, prompt: str, seed: int, **changes: object) -> Image.Image:
    pipeline = load_model(folder, device="cpu").pipeline
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"height": 16, "width": 16, "num_inference_steps": 3, "max_sequence_length": 16} | changes
    return pipeline(prompt=prompt, generator=torch.Generator().manual_seed(seed), **arguments).images[0]


def near(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max()) <= 1


def test_strings_and_dicts_give_one_output_each_in_order(omni: Omni, folder: Path) -> None:
    outputs = omni.generate(
        ["a red circle", {"prompt": "a blue star", "seed": 7, "num_inference_steps": 5}, {"prompt": "x", "width": 32}],
        PARAMS,
    )
    assert [output.prompt for output in outputs] == ["a red circle", "a blue star", "x"]
    assert [output.seeds for output in outputs] == [[1], [7], [1]]
    assert [output.metrics.num_steps for output in outputs] == [3, 5, 3]
    assert near(outputs[0].images[0], stock(folder, "a red circle", 1))
    assert near(outputs[1].images[0], stock(folder, "a blue star", 7, num_inference_steps=5))
    assert near(outputs[2].images[0], stock(folder, "x", 1, width=32))
    assert len({output.request_id for output in outputs}) == 3


def test_several_images_have_the_seeds_that_follow(omni: Omni, folder: Path) -> None:
    output = omni.generate({"prompt": "a", "num_images": 3}, PARAMS)[0]
    assert output.seeds == [1, 2, 3]
    for seed, image in zip(output.seeds, output.images, strict=True):
        assert near(image, stock(folder, "a", seed))


def test_metrics_say_where_the_time_went(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_GATHER_S", 120.0)  # all three start together, however long they are on their way
    metrics = omni.generate(["a", "b", "c"], PARAMS)[0].metrics
    assert metrics.num_steps == 3
    assert metrics.num_forwards == 3 + 2 + 1  # transformer, two text encoders, decode
    assert metrics.mean_rows > 1
    assert min(metrics.encode_s, metrics.denoise_s, metrics.decode_s) > 0
    assert metrics.total_s >= metrics.queue_s


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"prompt": "a", "stepz": 3}, "unknown field 'stepz'"),
        ({"prompt": "a", "num_inference_step": 3}, "did you mean 'num_inference_steps'"),
        ({"prompt": "a", "strength": 0.5}, "FluxPipeline takes no strength"),
        ({"prompt": "a", "height": -1}, "height is -1; expected"),
        ({"prompt": ["a", "b"]}, "submit several prompts as several requests"),
        ({"prompt": "a", "multi_modal_data": {"image": Image.new("RGB", (8, 8))}}, "FluxPipeline takes no image"),
    ],
)
def test_bad_requests_are_refused_with_words_and_harm_no_other(omni: Omni, prompt: dict, message: str) -> None:
    bad, good = omni.generate([prompt, "fine"], PARAMS)
    assert isinstance(bad.error, InvalidRequestError)
    assert message in str(bad.error)
    assert good.error is None
    assert len(good.images) == 1


def test_raise_on_error_raises_and_otherwise_errors_are_outputs(omni: Omni) -> None:
    late = {"prompt": "a", "num_inference_steps": 100_000, "timeout_s": 0.05}
    assert isinstance(omni.generate([late], PARAMS)[0].error, DeadlineExceededError)
    with pytest.raises(DeadlineExceededError):
        omni.generate([late, "fine"], PARAMS, raise_on_error=True)


def test_progress_counts_the_steps_and_previews_are_small_pictures(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    previewer = omni.pipeline.drawing._previewer
    draw = previewer.picture
    monkeypatch.setattr(
        previewer, "picture", lambda *args: (time.sleep(0.2), draw(*args))[1]
    )  # the output waits for it
    seen: list[Progress] = []
    omni.submit({"prompt": "a", "num_inference_steps": 6}, PARAMS, on_progress=seen.append, preview_every=2).result()
    assert [p.step for p in seen if p.preview is None] == [1, 2, 3, 4, 5, 6]
    assert all(p.num_steps == 6 for p in seen if p.preview is None)
    previews = [p.preview for p in seen if p.preview is not None]
    assert len(previews) == 2, "after steps 2 and 4; after step 6 the output itself comes"
    assert all(isinstance(preview, Image.Image) and preview.size == (8, 8) for preview in previews)


def test_abort_ends_a_request_with_all_its_images(omni: Omni) -> None:
    future = omni.submit({"prompt": "a", "num_images": 3, "num_inference_steps": 100_000}, PARAMS, request_id="gone")
    assert omni.abort("gone")
    assert isinstance(future.result(timeout=60).error, AbortedError)
    assert omni.abort("gone") is False


def test_models_that_cannot_be_loaded_are_refused_with_words(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no model_index.json"):
        Omni(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot load model 'nobody/nothing'"):
        Omni("nobody/nothing", local_files_only=True)
    with pytest.raises(InvalidRequestError, match="unknown option 'max_seqs'"):
        Omni(tmp_path, max_seqs=3)


def test_async_requests_share_forwards_yield_progress_and_abort_when_left(folder: Path) -> None:
    async def one(omni: AsyncOmni, prompt: str) -> list[Progress | Output]:
        return [event async for event in omni.generate(prompt, PARAMS)]

    async def main() -> None:
        omni = AsyncOmni(folder, max_batch_rows=None)
        with omni.omni.engine.paused():  # type: ignore[union-attr]  # all four are there before the first runs
            asked = [asyncio.create_task(one(omni, prompt)) for prompt in "abcd"]
            await asyncio.sleep(0)
        for one_request in await asyncio.gather(*asked):
            assert [event.step for event in one_request[:-1] if isinstance(event, Progress)] == [1, 2, 3]
            assert isinstance(one_request[-1], Output)
            assert one_request[-1].error is None
        assert omni.engine.stats()["mean_rows"]["transformer"] > 1
        stream = omni.generate("left early", SamplingParams(height=16, width=16, num_inference_steps=100_000))
        assert isinstance(await anext(stream), Progress)
        await stream.aclose()
        while omni.engine.stats()["requests"]["live"]:
            await asyncio.sleep(0.01)
        assert omni.engine.stats()["requests"]["aborted"] == 1
        await omni.close()

    asyncio.run(asyncio.wait_for(main(), 300))
