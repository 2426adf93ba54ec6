"""prompts.py, stages/parse.py and request.py: parsed once, at the door; several images split in one place."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest
from PIL import Image

from interlace import ARSamplingParams, Omni, Output, Request, SamplingParams, create_ar_stage_config
from interlace.checks import MAX_SEED
from interlace.errors import AbortedError, InvalidRequestError
from interlace.models.loader import LoadedModel
from interlace.omni import _gather
from interlace.prompts import as_prompt, parse_prompt
from interlace.serve.jobs.models import editor_of
from interlace.stages.config import create_dit_stage_config
from interlace.stages.parse import parse, requests_for

TWO = (create_ar_stage_config(0, "a"), create_dit_stage_config(1, "b", dit_config={"num_inference_steps": 7}))


@pytest.mark.parametrize(
    ("seed", "count", "is_good"),
    [(0, 1, True), (MAX_SEED, 1, True), (MAX_SEED, 2, False), (MAX_SEED + 1, 1, False), (-1, 1, False)],
)
def test_every_image_of_a_request_has_a_seed_from_0_to_2_to_the_63_less_one(
    seed: int, count: int, is_good: bool
) -> None:
    if is_good:
        request = Request(request_id="r", prompt="a", sampling=SamplingParams(seed=seed, num_images=count))
        assert [one.drawing.seed for one in request.split()] == [seed]
        return
    with pytest.raises(InvalidRequestError, match="seed is"):
        SamplingParams(seed=seed, num_images=count)


def test_a_request_for_several_images_becomes_several_in_one_place() -> None:
    request = Request(request_id="r", prompt="a", sampling=SamplingParams(seed=5, num_images=3))
    parts = request.split()
    assert [(one.request_id, one.drawing.seed, one.drawing.num_images) for one in parts] == [
        ("r/0", 5, 1), ("r/1", 6, 1), ("r/2", 7, 1)]  # fmt: skip
    named = request.split(lambda index: f"r_{index:02d}", [9, 2, 4])
    assert [(one.request_id, one.drawing.seed) for one in named] == [("r_00", 9), ("r_01", 2), ("r_02", 4)]


@pytest.mark.parametrize("media", ["a.png", 3, ["x"]])
def test_inputs_that_are_no_dict_are_refused(media: Any) -> None:
    with pytest.raises(InvalidRequestError, match="multi_modal_data is a"):
        parse_prompt({"prompt": "a", "multi_modal_data": media}, SamplingParams(), "r")


def test_what_is_parsed_can_be_written_and_parsed_again() -> None:
    item = {"prompt": "a", "seed": 3, "extra": {"x": 1}, "multi_modal_data": {"image": [Image.new("RGB", (2, 2))]}}
    request = parse_prompt(item, SamplingParams(height=8), "r")
    assert parse_prompt(as_prompt(request), SamplingParams(), "r") == request


def test_each_stage_gets_its_part_its_defaults_and_one_seed() -> None:
    item = {"prompt": "a", "temperature": 0.5, "num_images": 2, "stages": [{}, {"prompt": "b"}]}
    writes, draws = requests_for(parse(item, SamplingParams(height=16, num_images=2), TWO, "r"), TWO)
    assert (writes.prompt, draws.prompt) == ("a", "b")
    assert isinstance(writes.sampling, ARSamplingParams)
    assert writes.sampling.temperature == 0.5
    assert (draws.drawing.num_inference_steps, draws.drawing.height, draws.drawing.num_images) == (7, 16, 2)
    assert writes.sampling.seed == draws.drawing.seed is not None


def test_a_request_goes_as_it_is_and_says_to_every_stage_what_fits_it() -> None:
    request = Request(request_id="r", prompt="a", sampling=SamplingParams(seed=4, height=16, num_images=3))
    assert parse(request, None, TWO, "other") is request
    writes, draws = requests_for(request, TWO)
    assert writes.sampling == ARSamplingParams(seed=4)
    assert (draws.drawing.seed, draws.drawing.num_images) == (4, 3)


def test_all_outputs_were_told_of_when_generate_returns() -> None:
    futures: list[Future[Output]] = [Future() for _ in range(4)]
    told: list[str] = []

    def slow(output: Output) -> None:
        threading.Event().wait(0.05)
        told.append(output.request_id)

    def end() -> None:
        for number, future in enumerate(futures):
            future.set_result(Output(request_id=str(number)))

    threading.Thread(target=end).start()
    _gather(futures, slow)
    assert told == ["0", "1", "2", "3"]


def test_the_table_of_editing_models_holds_for_the_servers_editor_too(tmp_path: Any) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxKontextPipeline"}')
    asked: dict[str, Any] = {}

    def load(name: str, **options: Any) -> LoadedModel:
        asked.update(options)
        return LoadedModel(name=name, pipeline=object(), defaults={"guidance_scale": 9.0})  # type: ignore[arg-type]

    editor = editor_of(str(tmp_path), load)
    assert asked == {"pipeline_class": "FluxKontextPipeline"}
    assert editor.defaults == {"num_inference_steps": 28, "guidance_scale": 9.0}


def test_an_id_in_use_is_refused_and_its_owner_can_still_be_aborted() -> None:
    with Omni("demo") as omni:
        params = SamplingParams(num_inference_steps=100_000)
        first = omni.submit("a red circle", params, request_id="same")
        second = omni.submit("a blue star", params, request_id="same").result(60)
        assert "already in use" in str(second.error)
        assert omni.abort("same")
        assert isinstance(first.result(60).error, AbortedError)
