"""Films and sound through `Omni`: the pipeline's own bytes, how fast they play, how long they last, files of them."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from diffusers import TextToVideoZeroPipeline

from interlace import Omni, SamplingParams
from interlace.errors import InvalidRequestError
from interlace.models.films.decoding import FilmKeeper
from interlace.models.films.kind import makes_of
from interlace.models.films.lengths import film_fps, frames_of, makes
from interlace.models.loader import LoadedModel
from interlace.models.schedulers import check_shift
from interlace.models.sizes.rule import PipelineSizes
from tests.zoo import FAMILIES

SMALL = {"height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": 16}

QUIET = {"stg_scale": 0.0, "modality_scale": 1.0, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0}


@pytest.fixture(scope="module")
def wan() -> Iterator[Omni]:
    with Omni(LoadedModel("tiny-wan", FAMILIES["wan"].build(), {**SMALL, "num_frames": 5})) as omni:
        yield omni


def test_a_film_is_the_pipelines_own_to_the_byte(wan: Omni, tmp_path: Path) -> None:
    [output] = wan.generate("a red fox", seed=3, num_frames=9)
    stock = FAMILIES["wan"].build()(
        prompt="a red fox", num_frames=9, generator=torch.Generator().manual_seed(3), output_type="pil", **SMALL
    )
    expected = np.stack([np.asarray(frame) for frame in stock.frames[0]])
    assert np.abs(output.frames[0].array.astype(int) - expected).max() <= 1
    assert (output.fps, output.frames[0].size, output.frames[0][8].size) == (16.0, (16, 16), (16, 16))
    [path] = output.save(tmp_path / "films" / "fox.mp4")
    with av.open(str(path)) as container:
        assert (container.streams.video[0].frames, container.metadata["title"]) == (9, "a red fox")
    with pytest.raises(InvalidRequestError, match=r"\.mp4, \.webm"):
        output.save(tmp_path / "fox.png")


def test_films_of_a_shared_decode_come_as_bytes_and_are_the_pipelines_own(
    wan: Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[torch.Tensor] = []
    keep = FilmKeeper.postprocess_video

    def kept(self: FilmKeeper, video: torch.Tensor, *rest: Any, **named: Any) -> Any:
        decoded.append(video)
        return keep(self, video, *rest, **named)

    monkeypatch.setattr(FilmKeeper, "postprocess_video", kept)
    prompts = ["a red fox", "two cats", "snow"]
    for _ in range(2):  # the first time fused decodes are compared with decodes alone
        outputs = wan.generate([{"prompt": prompt, "seed": 3, "num_frames": 13} for prompt in prompts])
    assert {(one.dtype, one.shape) for one in decoded} == {(torch.uint8, (1, 13, 16, 16, 3))}
    assert not wan.engine.stats()["unfused"]
    pipeline = FAMILIES["wan"].build()
    for prompt, output in zip(prompts, outputs, strict=True):
        given = {"prompt": prompt, "num_frames": 13, "generator": torch.Generator().manual_seed(3), **SMALL}
        stock = pipeline(output_type="pt", **given).frames[0]
        expected = (stock.permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8).numpy()
        assert np.abs(output.frames[0].array.astype(int) - expected).max() <= 1


def test_seconds_and_fps_are_frames(wan: Omni) -> None:
    [output] = wan.generate("a red fox", seconds=0.5, fps=24)
    assert (len(output.frames[0]), output.fps) == (13, 24.0)  # 12 frames: the next that 4k + 1 gives
    arguments = wan.arguments
    told = arguments.resolved(_request(seconds=1.0))
    assert (told["num_frames"], told["fps"]) == (17, 16.0)
    for wrong, field in (({"seconds": 1.0, "num_frames": 5}, "seconds"), ({"fps": 0}, "fps")):
        with pytest.raises(InvalidRequestError) as caught:
            arguments.arguments(_request(**wrong))
        assert caught.value.param == field


def test_a_pipeline_may_call_its_frames_otherwise() -> None:
    """SANA-Video's call has `frames`."""
    own = {"height": 32, "width": 32, "num_inference_steps": 2, "use_resolution_binning": False,
           "complex_human_instruction": None}  # fmt: skip
    pipeline = FAMILIES["sana-video"].build()
    assert makes_of(type(pipeline)) == "film"
    with Omni(LoadedModel("tiny-sana-video", pipeline, own)) as omni:
        assert omni.arguments.makes == "film"
        [output] = omni.generate("a red fox", seed=3, num_frames=9)
        told = omni.arguments.resolved(_request(seconds=0.5))
        assert (told["num_frames"], told["fps"]) == (9, 16.0)
        assert len(omni.generate("a red fox", seconds=0.5)[0].frames[0]) == 9
        rule = PipelineSizes(FAMILIES["sana-video"].build(), own)
        rule.check({"num_frames": 9, "height": 32})
        with pytest.raises(InvalidRequestError, match="33"):
            rule.check({"num_frames": 9, "height": 33})
    stock = FAMILIES["sana-video"].build()(
        prompt="a red fox", frames=9, generator=torch.Generator().manual_seed(3), output_type="pil", **own
    )
    expected = np.stack([np.asarray(frame) for frame in stock.frames[0]])
    assert np.abs(output.frames[0].array.astype(int) - expected).max() <= 1


def test_a_model_may_know_one_length_only() -> None:
    """Latte's call has `video_length`, and its frames have as many positions as its films have frames."""
    own = {"height": 16, "width": 16, "num_inference_steps": 2, "clean_caption": False}
    pipeline = FAMILIES["latte"].build()
    rule = PipelineSizes(FAMILIES["latte"].build(), own)
    with Omni(LoadedModel("tiny-latte", pipeline, own)) as omni:
        assert omni.arguments.makes == "film"
        [output] = omni.generate("a red fox", seed=3, num_frames=4)
        assert omni.arguments.resolved(_request(num_frames=4))["fps"] == 10
        for frames, refuses in ((4, False), (5, True), (1, False)):
            for check in (
                lambda frames=frames: omni.arguments.arguments(_request(num_frames=frames)),
                lambda frames=frames: rule.check({"num_frames": frames}),
            ):
                with pytest.raises(InvalidRequestError, match="expected 4, or 1") if refuses else nullcontext():
                    check()
    stock = FAMILIES["latte"].build()(
        prompt="a red fox", video_length=4, generator=torch.Generator().manual_seed(3), output_type="pil", **own
    )
    expected = np.stack([np.asarray(frame) for frame in stock.frames[0]])
    assert np.abs(output.frames[0].array.astype(int) - expected).max() <= 1


def test_pictures_of_a_pipeline_whose_call_says_how_many_frames_are_one_film() -> None:
    """Text2Video-Zero, over Stable Diffusion's parts; rows of one forward attend to each other in it."""
    own = {"height": 32, "width": 32, "num_inference_steps": 6, "t0": 2, "t1": 4}
    parts = FAMILIES["sd15-ddim"].build().components
    kept = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    pipeline = TextToVideoZeroPipeline(
        **kept, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    with Omni(LoadedModel("tiny-zero", pipeline, own)) as omni:
        asked = [{"num_frames": frames, "seed": seed} for frames, seed in ((3, 1), (3, 2), (4, 3))]
        outputs = [future.result() for future in [omni.submit("a fox", one) for one in asked]]
    for request, output in zip(asked, outputs, strict=True):
        generator = torch.Generator().manual_seed(request["seed"])
        stock = pipeline("a fox", video_length=request["num_frames"], generator=generator, **own).images
        assert output.images == []
        assert len(output.frames) == 1
        assert np.abs(output.frames[0].array.astype(int) - (stock * 255).round()).max() <= 1


def test_flow_shift_is_the_schedulers(wan: Omni) -> None:
    plain, same, other = (
        wan.generate("snow", seed=1, flow_shift=shift)[0].frames[0].array for shift in (None, 3.0, 9.0)
    )
    assert np.array_equal(plain, same)  # the tiny model's own is 3
    assert not np.array_equal(plain, other)


def test_models_say_how_fast_their_films_play() -> None:
    ltx = FAMILIES["ltx"].build()
    with Omni(LoadedModel("tiny-ltx", ltx, {**SMALL, "height": 32, "width": 32})) as omni:
        kwargs = omni.arguments.arguments(_request(fps=12, seconds=1.0))
        assert (kwargs["frame_rate"], kwargs["num_frames"]) == (12, frames_of(1.0, 12, ltx))
        assert omni.arguments.fps(SamplingParams()) == 25  # what the model is told where nobody asks
    assert film_fps(FAMILIES["animatediff"].build(), {}, {}, None) == 8
    assert film_fps(FAMILIES["wan"].build(), {}, {"fps": 24}, None) == 24


def test_sound_has_its_rate_and_its_length(tmp_path: Path) -> None:
    pipeline = FAMILIES["stable-audio"].build()
    with Omni(LoadedModel("tiny-audio", pipeline, {"num_inference_steps": 2})) as omni:
        [output] = omni.generate("rain", seconds=1.0, seed=1)
        assert (output.sample_rate, output.audio[0].shape) == (4, (2, 4))
        assert omni.arguments.makes == "sound"
        [path] = output.save(tmp_path / "rain.wav")
        assert soundfile.info(path).duration == 1.0
        with pytest.raises(InvalidRequestError, match="no fps"):
            omni.arguments.arguments(_request(fps=8))


def test_a_film_comes_with_its_sound(tmp_path: Path) -> None:
    defaults = {"height": 32, "width": 32, "num_inference_steps": 2, "max_sequence_length": 16, **QUIET}
    with Omni(LoadedModel("tiny-ltx-2", FAMILIES["ltx-2"].build(), defaults)) as omni:
        outputs = omni.generate(["a red fox", "two cats"], seed=1, num_frames=25)
        for number, output in enumerate(outputs):
            assert (len(output.frames[0]), output.fps, len(output.audio)) == (25, 24.0, 1)
            [path] = output.save(tmp_path / f"{number}.mp4")
            with av.open(str(path)) as container:
                heard = [frame.to_ndarray() for frame in container.decode(audio=0)]
                track = container.streams.audio[0]
                assert (track.codec_context.name, track.rate, track.channels) == ("aac", 16_000, 2)
                assert sum(one.shape[1] for one in heard) / track.rate == pytest.approx(25 / 24, abs=0.15)
                assert max(float(np.abs(one).max()) for one in heard) > 0.001
            with av.open(str(path)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 25
    assert not np.array_equal(outputs[0].audio[0], outputs[1].audio[0])


def test_pictures_have_no_length() -> None:
    with Omni("demo") as omni:
        with pytest.raises(InvalidRequestError, match="no seconds"):
            omni.arguments.arguments(_request(seconds=2.0))
        with pytest.raises(InvalidRequestError, match="no flow shift"):
            check_shift(FAMILIES["animatediff"].build(), 2.0)
        assert makes(omni.arguments.parameters) == "pictures"


def _request(**sampling: Any) -> Any:
    from interlace.request import Request

    return Request(request_id="one", prompt="a fox", sampling=SamplingParams(**sampling))
