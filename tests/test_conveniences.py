"""given.py, shown.py and examples/notebooks: what people say and expect who come from diffusers."""

import asyncio
import logging
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from interlace import AsyncOmni, Omni, Output, SamplingParams
from interlace.errors import InvalidRequestError
from interlace.python.given import with_keywords

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.py"))
TINY = {"height": 64, "width": 64, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def omni() -> Iterator[Omni]:
    with Omni("demo") as one:
        yield one


def same(first: Output, second: Output) -> bool:
    return np.array_equal(np.asarray(first.image), np.asarray(second.image))


def test_keywords_dicts_and_parameters_say_the_same(omni: Omni) -> None:
    (wanted,) = omni.generate("a", SamplingParams(seed=7, **TINY))
    for outputs in (
        omni.generate("a", seed=7, **TINY),
        omni.generate("a", {"seed": 7, **TINY}),
        omni.generate("a", {"seed": 1, **TINY}, seed=7),
        omni.generate({"prompt": "a", "seed": 7}, SamplingParams(**TINY)),
        omni.generate("a", generator=torch.Generator().manual_seed(7), **TINY),
        [omni.submit("a", {"seed": 7, **TINY}).result(60)],
    ):
        assert same(outputs[0], wanted)
    assert wanted.image.size == (64, 64)
    assert len(omni.generate("a", num_images_per_prompt=2, **TINY)[0].images) == 2


def test_what_the_pipeline_does_not_take_is_said(omni: Omni) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'num_inference_steps'"):
        omni.generate("a", num_inference_step=2)
    with pytest.raises(InvalidRequestError, match="seed=7"):
        omni.generate("a", generator=7)


def test_a_prompt_longer_than_the_model_reads_is_marked(omni: Omni, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "interlace"):
        long, short = omni.generate(["a red circle " * 10, "a red circle"], **TINY)
    assert (long.prompt_cut, short.prompt_cut) == ({"tokens": 31, "read": 24}, None)
    assert "1 of 2 prompts are longer than the model reads" in caplog.text


def test_a_single_text_raises_and_of_several_a_warning_tells(omni: Omni, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidRequestError, match="height is 8"):
        omni.generate("a", height=8)
    assert omni.generate("a", height=8, raise_on_error=False)[0].error is not None
    caplog.clear()
    with caplog.at_level(logging.WARNING, "interlace"):
        good, bad = omni.generate(["a", {"prompt": "b", "height": 8}], **TINY)
    assert "1 of 2 requests failed (output.error says why); the first: InvalidRequestError: height is 8" in caplog.text
    assert good.error is None
    with pytest.raises(InvalidRequestError, match="height is 8"):
        _ = bad.image
    assert bad._repr_png_() is None


def test_an_output_shows_and_saves_itself(omni: Omni, tmp_path: Path) -> None:
    output = omni.generate("a", num_images=2, **TINY)[0]
    shown = output._repr_png_()
    assert shown is not None
    assert shown.startswith(b"\x89PNG")
    paths = output.save(tmp_path / "new" / "a.png")
    assert [path.name for path in paths] == ["a.png", "a-1.png"]
    with Image.open(paths[1]) as image:
        assert np.array_equal(np.asarray(image), np.asarray(output.images[1]))
    with pytest.raises(InvalidRequestError, match="says no format"):
        output.save(tmp_path / "a")
    with pytest.raises(ValueError, match="made no picture"):
        _ = Output(request_id="x", text="words").image


def test_pictures_beside_a_prompt(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    picture.save(tmp_path / "a.png")
    with Omni("demo-edit") as edit:
        long = {"prompt": "make it blue", "multi_modal_data": {"image": picture}}
        wanted = edit.generate(long, seed=1, **TINY)[0]
        for item in (
            {"prompt": "make it blue", "image": picture},
            {"prompt": "make it blue", "image": str(tmp_path / "a.png")},
        ):
            assert same(edit.generate(item, seed=1, **TINY)[0], wanted)
        assert same(edit.generate("make it blue", image=picture, seed=1, **TINY)[0], wanted)
        with pytest.raises(InvalidRequestError, match="can't read the picture"):
            edit.generate("make it blue", image=str(tmp_path / "none.png"))


def test_a_bar_counts_steps_and_loading_is_quiet(omni: Omni, capfd: pytest.CaptureFixture[str]) -> None:
    omni.generate(["a", "b"], progress=True, **TINY)
    assert "2.0/2" in capfd.readouterr().err
    omni.generate(["a", "b"], **TINY)
    with Omni("demo"):
        pass
    assert capfd.readouterr().err == ""


def test_keywords_beside_parameters_of_each_stage_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="say it in those"):
        with_keywords([SamplingParams()], {"seed": 3})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(path))
    assert list(tmp_path.glob("*.png"))


def test_numbers_of_numpy_are_numbers(omni: Omni) -> None:
    params = SamplingParams(
        seed=np.int64(7), height=np.uint16(64), width=64, guidance_scale=np.float32(2), num_images=1
    )
    assert [type(one) for one in (params.seed, params.height, params.guidance_scale)] == [int, int, float]
    (wanted,) = omni.generate("a", seed=7, **TINY)
    assert same(omni.generate("a", seed=np.int64(7), **TINY)[0], wanted)
    for wrong in (np.bool_(True), np.float64(1.5), "7"):
        with pytest.raises(InvalidRequestError, match="whole number"):
            SamplingParams(seed=wrong)


def test_steps_have_a_bound() -> None:
    SamplingParams(num_inference_steps=100_000)
    with pytest.raises(InvalidRequestError, match="num_inference_steps is 100000000; expected a whole number from 1"):
        SamplingParams(num_inference_steps=100_000_000)


def test_what_a_listener_of_outputs_raises_is_raised(omni: Omni) -> None:
    told: list[str] = []

    def listener(output: Output) -> None:
        told.append(output.request_id)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        omni.generate(["a", "b"], on_output=listener, **TINY)
    assert len(told) == 2


def test_outputs_are_pictures_and_no_arrays(omni: Omni) -> None:
    (wanted,) = omni.generate("a", seed=7, **TINY)
    assert same(omni.generate("a", seed=7, output_type="pil", **TINY)[0], wanted)
    for kind in ("latent", "np", "pt", "foo"):
        with pytest.raises(InvalidRequestError, match=r"expected pil.*Engine\(pipeline\)"):
            omni.generate("a", output_type=kind, **TINY)


def test_a_loop_that_is_left_and_closed_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    one = AsyncOmni("demo")

    async def first() -> None:
        async for _ in one.generate("a star", num_inference_steps=30, height=64, width=64):
            break

    asyncio.run(first())
    assert one.omni.generate("a", raise_on_error=True, **TINY)
    one.omni.close()
    assert not caplog.records
