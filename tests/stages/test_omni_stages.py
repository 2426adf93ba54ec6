"""`Omni` over stages with real, tiny models: a language model and diffusion, or two of diffusion."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from interlace import (
    ARSamplingParams,
    AsyncOmni,
    AsyncOmniLLM,
    Omni,
    OmniLLM,
    Output,
    Progress,
    SamplingParams,
    create_ar_stage_config,
    create_dit_stage_config,
)
from interlace.errors import AbortedError, DeadlineExceededError, InvalidRequestError
from interlace.stages.config import HandoffConfig, OmniStageConfig
from tests.stages.models import save_family, save_language_model
from tests.tiny import save_tiny_flux

IDEAS = ["a star", "something round and red", "two circles", "a blue square", "a heart", "a ring on black", "moon",
         "a yellow thing"] * 2  # fmt: skip
TINY = SamplingParams(num_inference_steps=3, height=16, width=16)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_flux(tmp_path_factory.mktemp("flux"))


def stages_of(flux: Path, **changes: object) -> list[OmniStageConfig]:
    writer = create_ar_stage_config(0, "demo-expand", engine_args={"dtype": "float32"})
    return [writer, create_dit_stage_config(1, str(flux), **changes)]


@pytest.fixture(scope="module")
def omni(flux: Path) -> Iterator[Omni]:
    with Omni(stages=stages_of(flux)) as opened:
        yield opened


def near(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max()) <= 1


@pytest.mark.parametrize("temperature", [0.0, 0.9], ids=["greedy", "sampled"])
def test_a_request_beside_fifteen_others_is_what_it_is_alone(omni: Omni, temperature: float) -> None:
    params = [ARSamplingParams(temperature=temperature), TINY]
    requests = [{"prompt": idea, "seed": 10 + i} for i, idea in enumerate(IDEAS)]
    together = omni.generate(requests, params)
    for index in (0, 5, 15):
        alone = omni.generate(requests[index], params)[0]
        assert alone.error is None
        assert together[index].text == alone.text
        assert together[index].seeds == alone.seeds == [10 + index]
        assert near(together[index].images[0], alone.images[0])
    if temperature:
        assert omni.generate({**requests[0], "seed": 99}, params)[0].text != together[0].text


def test_what_the_language_model_writes_is_what_is_drawn(omni: Omni, flux: Path) -> None:
    output = omni.generate({"prompt": "a star", "seed": 4}, TINY, return_stages=True)[0]
    with Omni(flux) as plain:
        drawn = plain.generate({"prompt": output.text, "seed": 4}, TINY)[0]
    assert near(output.images[0], drawn.images[0])
    assert [stage.prompt for stage in output.stages] == ["a star", output.text]
    assert output.prompt == "a star"
    assert output.stages[0].metrics.num_tokens > 3
    assert output.stages[1].metrics.num_steps == output.metrics.num_steps == 3
    assert output.metrics.total_s >= sum(stage.metrics.total_s for stage in output.stages) * 0.99


def test_seed_002s_example_runs(flux: Path) -> None:
    ar_config = create_ar_stage_config(
        stage_id=0, model_path="demo-expand", input_modalities=["text"], output_modalities=["text"]
    )
    dit_config = create_dit_stage_config(
        stage_id=1, model_path=str(flux), input_modalities=["text"], output_modalities=["image"]
    )
    omni_llm = OmniLLM([ar_config, dit_config])
    stage_args = [{"prompt": "A beautiful landscape"}, {"prompt": "A beautiful landscape"}]
    outputs = omni_llm.generate(stage_args)
    assert len(outputs) == 1
    assert outputs[0].error is None
    assert outputs[0].text
    assert isinstance(outputs[0].images[0], Image.Image)
    two = omni_llm.generate([[{"prompt": "a star", "temperature": 0.0}, {"width": 16}], stage_args])
    assert [output.prompt for output in two] == ["a star", "A beautiful landscape"]
    assert [output.images[0].width for output in two] == [16, 32]
    with pytest.raises(InvalidRequestError, match="stage_args has 3 dicts for 2 stages"):
        omni_llm.generate([*stage_args, {}])
    omni_llm.close()


def test_async_tells_text_then_steps_then_the_output_and_aborts_when_left(flux: Path) -> None:
    async def main() -> None:
        omni = AsyncOmniLLM(stages_of(flux, dit_config={"num_inference_steps": 4, "height": 16, "width": 16}))
        events = [event async for event in omni.generate([{"prompt": "a star"}, {}])]
        output = events[-1]
        assert isinstance(output, Output)
        progress = [event for event in events if isinstance(event, Progress)]
        assert "".join(event.text or "" for event in progress if event.stage == 0) == output.text
        assert [event.step for event in progress if event.stage == 1] == [1, 2, 3, 4]
        stream = omni.generate([{"prompt": "a star"}, {"num_inference_steps": 100_000}], request_id="left")
        async for event in stream:
            if isinstance(event, Progress) and event.stage == 1:
                break
        await stream.aclose()
        while omni.abort("left"):  # until it has left its stage, the request is there to be aborted
            await asyncio.sleep(0.01)
        requests = omni.omni.engine.stats()["requests"]
        assert requests["aborted"] == 1
        assert requests["live"] == 0
        await omni.close()

    asyncio.run(asyncio.wait_for(main(), 300))


def test_asyncomni_takes_a_deploy_file(flux: Path, tmp_path: Path) -> None:
    deploy = tmp_path / "deploy.yaml"
    deploy.write_text(f"stage_args:\n- {{stage_type: ar, model: demo-expand}}\n"
                      f"- {{stage_type: diffusion, model: '{flux}', replicas: 2, device: cpu,\n"
                      f"   dit_config: {{num_inference_steps: 2, scheduler: FlowMatchLCMScheduler}}}}\n")  # fmt: skip

    async def main() -> None:
        omni = AsyncOmni(deploy_config=deploy)
        assert type(omni.omni) is Omni
        described = omni.omni.describe()
        assert [stage["stage_type"] for stage in described["stages"]] == ["ar", "diffusion"]
        assert described["stages"][1]["replicas"] == 2
        assert type(omni.omni.model.pipeline.scheduler).__name__ == "FlowMatchLCMScheduler"

        async def one(idea: str) -> Output:
            return [event async for event in omni.generate(idea)][-1]

        outputs = await asyncio.gather(*(one(idea) for idea in IDEAS[:6]))
        assert [output.error for output in outputs] == [None] * 6
        stats = omni.omni.pipeline.stats()
        assert [stage["finished"] for stage in stats] == [6, 6]
        assert sum(one["engine"]["requests"]["ok"] for one in stats[1]["engine"]["replicas"]) == 6
        await omni.close()

    asyncio.run(asyncio.wait_for(main(), 600))


def test_hidden_states_become_prompt_embeds(tmp_path: Path) -> None:
    writer = create_ar_stage_config(
        0,
        str(save_language_model(tmp_path / "words")),
        output_modalities=["hidden_states"],
        default_sampling_params={"max_tokens": 6, "temperature": 0.8, "hidden_layer": -1, "hidden_tokens": "all"},
    )
    painter = create_dit_stage_config(
        1, str(save_family("sd15-ddim", tmp_path / "sd")), input_modalities=["hidden_states"]
    )
    params = SamplingParams(num_inference_steps=2, height=32, width=32)
    with Omni(stages=[writer, painter]) as omni:
        assert omni.configs[1].handoff == HandoffConfig(function="hidden_states_to_prompt_embeds")
        requests = [{"prompt": idea, "seed": i} for i, idea in enumerate(IDEAS[:6])]
        together = omni.generate(requests, params, return_stages=True)
        assert [output.error for output in together] == [None] * 6
        alone = omni.generate(requests[2], params)[0]
        assert near(alone.images[0], together[2].images[0])
        hidden = together[2].stages[0].hidden_states
        with Omni(str(tmp_path / "sd")) as plain:
            direct = plain.generate({"seed": 2, "extra": {"prompt_embeds": hidden}}, params)[0]
        assert near(direct.images[0], alone.images[0])
        assert len({output.images[0].tobytes() for output in together}) == 6


@pytest.mark.parametrize(
    ("family", "what", "fields"),
    [
        ("wan", "frames", {"num_frames": 5, "height": 16, "width": 16, "max_sequence_length": 16}),
        ("stable-audio", "audio", {"extra": {"audio_end_in_s": 0.5}}),
    ],
)
def test_video_and_sound_come_out_of_a_last_stage(family: str, what: str, fields: dict, tmp_path: Path) -> None:
    painter = create_dit_stage_config(1, str(save_family(family, tmp_path / family)), output_modalities=[
        "video" if what == "frames" else what])  # fmt: skip
    params = SamplingParams(num_inference_steps=2, **fields)
    with Omni(stages=[create_ar_stage_config(0, "demo-expand"), painter]) as omni:
        requests = [
            {"prompt": idea, "seed": i, "temperature": 0.9, "max_tokens": 6} for i, idea in enumerate(IDEAS[:3])
        ]
        together = omni.generate(requests, params)
        alone = omni.generate(requests[1], params)[0]
    assert [output.error for output in together] == [None] * 3
    assert all(output.text and not output.images and len(getattr(output, what)) == 1 for output in together)
    if what == "frames":
        assert [len(output.frames[0]) for output in together] == [5, 5, 5]
        assert all(near(*pair) for pair in zip(alone.frames[0], together[1].frames[0], strict=True))
    else:
        assert np.allclose(alone.audio[0], together[1].audio[0], atol=1e-4)


def test_draw_then_edit(tmp_path: Path) -> None:
    draw = create_dit_stage_config(0, str(save_family("sd15-ddim", tmp_path / "sd")))
    edit = create_dit_stage_config(
        1,
        str(save_family("sd15-img2img", tmp_path / "edit")),
        input_modalities=["text", "image"],
        default_sampling_params={"strength": 0.8},
        handoff=HandoffConfig(function="image_to_image", options={"prompt": "a better {prompt}"}),
    )
    params = [SamplingParams(num_inference_steps=2, height=32, width=32), SamplingParams(num_inference_steps=4)]
    with Omni(stages=[draw, edit]) as omni:
        own = {"prompt": "two cats", "seed": 3, "stages": [{}, {"prompt": "two dogs"}]}
        first, second = omni.generate([{"prompt": "two cats", "seed": 3}, own], params, return_stages=True)
        assert first.error is None
        assert [stage.prompt for stage in first.stages] == ["two cats", "a better two cats"]
        assert second.stages[1].prompt == "two dogs"
        assert near(first.stages[0].images[0], second.stages[0].images[0])
        assert not near(first.images[0], second.images[0])
        several = omni.generate({"prompt": "two cats", "seed": 3, "num_images": 2}, params, return_stages=True)[0]
        assert [len(stage.images) for stage in several.stages] == [1, 2]


def test_bad_requests_are_refused_at_the_stage_that_they_are_bad_for(omni: Omni) -> None:
    outputs = omni.generate(
        [
            {"prompt": "a star", "hieght": 16},
            {"prompt": "a star", "height": 17},
            {"prompt": "a star " * 60},
            {"prompt": "a star", "temperature": -1},
            {"prompt": "a star", "stages": [{}]},
            "a star",
        ],
        TINY,
    )
    words = ["unknown field 'hieght'", "height 17 is not a multiple", "the prompt has 121 tokens",
             "temperature is -1", "expected 2 dicts, one a stage"]  # fmt: skip
    for output, word in zip(outputs, words, strict=False):
        assert isinstance(output.error, InvalidRequestError)
        assert word in str(output.error)
    assert outputs[-1].error is None
    with pytest.raises(InvalidRequestError, match="sampling_params has 1 items for 2 stages"):
        omni.generate("a", [TINY], raise_on_error=True)
    with pytest.raises(InvalidRequestError, match="stage 0 are SamplingParams; expected ARSamplingParams"):
        omni.generate("a", {0: TINY}, raise_on_error=True)


def test_timeouts_and_aborts_reach_the_engine(omni: Omni) -> None:
    endless = {"prompt": "a star", "max_tokens": 2, "num_inference_steps": 100_000}
    for timeout_s in (1.5, 10.0, 60.0):  # the shortest in which something is written
        late = omni.generate({**endless, "timeout_s": timeout_s}, TINY)[0]
        assert isinstance(late.error, DeadlineExceededError)
        if late.text:
            break
    assert late.text, "what was written before is kept"
    future = omni.submit(endless, TINY, request_id="gone")
    while not omni.engine.stats()["requests"]["live"]:
        time.sleep(0.01)
    assert omni.abort("gone")
    assert isinstance(future.result(120).error, AbortedError)
    assert omni.abort("gone") is False


def test_stages_that_do_not_fit_are_refused_before_anything_is_loaded(flux: Path) -> None:
    with pytest.raises(InvalidRequestError, match="stage ids are"):
        Omni(stages=[create_dit_stage_config(1, "nothing")])
    handoff = HandoffConfig(function="text_to_prompt", options={"tempalte": "{text}"})
    with pytest.raises(InvalidRequestError, match="takes no option 'tempalte'"):
        Omni(stages=[create_ar_stage_config(0, "nothing"), create_dit_stage_config(1, "nothing", handoff=handoff)])
    with pytest.raises(InvalidRequestError, match="not both"):
        Omni(stages=[], deploy_config="x.yaml")
    with pytest.raises(InvalidRequestError, match="expected a scheduler class"):
        Omni(stages=[create_dit_stage_config(0, str(flux), dit_config={"scheduler": "Euler"})])
