"""models/sizes: a size that a model can't make is refused before the model is loaded, one that it rounds is not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from zoo import FAMILIES

from interlace.bulk.output.failures import read_failures
from interlace.bulk.output.manifest import read_manifest
from interlace.cli.main import run
from interlace.errors import InvalidRequestError
from interlace.models import places
from interlace.models.arguments import ArgumentMapper
from interlace.models.loader import LoadedModel
from interlace.models.sizes.door import LoadedSizeDoor, SizeDoor
from interlace.models.sizes.hollow import HollowPart, hollowed
from interlace.models.sizes.rule import PipelineSizes, Sizes, UnknownRuleError
from interlace.request import Request, SamplingParams


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a member of the zoo."""
    root = tmp_path_factory.mktemp("zoo")

    def save(name: str) -> Path:
        if not (root / name).exists():
            FAMILIES[name].build().save_pretrained(root / name)
        return root / name

    return save


@pytest.fixture(scope="module")
def sd3(saved: Callable[[str], Path]) -> Path:
    """A Stable Diffusion 3.5, whose pipeline takes multiples of 4; it says no sizes of its own."""
    return saved("sd3.5")


# Sizes that a pipeline refuses, what is said of them, and a size that it takes.
REFUSED: list[tuple[str, Sizes, str, Sizes]] = [
    ("sd3.5", {"height": 66, "width": 64}, "height 66 is not a multiple of 4, as Stable", {"height": 68, "width": 64}),
    ("sdxl", {"height": 60, "width": 60}, "height 60 and width 60 are not multiples of 8", {"height": 56, "width": 64}),
    ("z-image", {"width": 35}, "width 35 is not a multiple of 4", {"width": 36}),
    ("wan", {"height": 40, "width": 72}, "height 40 and width 72 are not", {"height": 48, "width": 64}),
    ("wan-i2v", {"height": 40, "width": 32}, "height 40 is not a multiple of 16", {"height": 32, "width": 32}),
    ("ltx", {"height": 32, "width": 48}, "width 48 is not a multiple of 32", {"height": 32, "width": 64}),
]


@pytest.mark.parametrize(("name", "sizes", "words", "good"), REFUSED, ids=[one[0] for one in REFUSED])
def test_what_a_pipeline_refuses_is_refused_without_its_weights(
    saved: Callable[[str], Path], name: str, sizes: Sizes, words: str, good: Sizes
) -> None:
    rule = PipelineSizes.of(saved(name))
    with pytest.raises(InvalidRequestError, match=words) as told:
        rule.check(sizes)
    tries = str(told.value).partition("; try ")[2]
    assert all(str(side) in tries for one, side in good.items() if side != sizes[one])
    rule.check(good)

    pipeline, request = FAMILIES[name].build(), FAMILIES[name].requests()[0]
    with pytest.raises(ValueError, match=r"divisible|multiple"):
        pipeline(**{**request, **sizes})
    pipeline(**{**request, **good, "num_inference_steps": 2, "output_type": "latent"})


@pytest.mark.parametrize(("name", "sizes", "words", "good"), REFUSED, ids=[one[0] for one in REFUSED])
def test_a_loaded_model_says_the_same_and_none_of_its_weights_are_kept(
    name: str, sizes: Sizes, words: str, good: Sizes
) -> None:
    pipeline = FAMILIES[name].build()
    door = LoadedSizeDoor(LoadedModel.around(pipeline))
    with pytest.raises(InvalidRequestError, match=words):
        door.check(SamplingParams(**sizes))
    door.check(SamplingParams(**good))
    assert not isinstance(pipeline.vae, HollowPart)
    assert "check_inputs" not in vars(pipeline)
    hollow = hollowed(pipeline)
    assert not [part for part in vars(hollow).values() if isinstance(part, torch.nn.Module)]
    assert hollow.vae.config == pipeline.vae.config


def test_pipelines_within_a_pipeline_are_not_run_for_its_sizes() -> None:
    """Kandinsky 2.2's has no checks of its own, and hands on to two others, which have weights."""
    pipeline = FAMILIES["kandinsky-2.2"].build()
    inner = [name for name, part in vars(pipeline).items() if isinstance(part, DiffusionPipeline)]
    assert sorted(inner) == ["decoder_pipe", "prior_pipe"]
    assert all(isinstance(vars(hollowed(pipeline))[name], HollowPart) for name in inner)
    door = LoadedSizeDoor(LoadedModel.around(pipeline))
    door.check(SamplingParams(height=33))
    assert "KandinskyV22CombinedPipeline doesn't say" in str(door.why_unknown)


def test_limits_of_a_loaded_model_come_first() -> None:
    door = LoadedSizeDoor(LoadedModel("a", FAMILIES["flux"].build(), limits={"multiple_of": 16, "max_size": 64}))
    for size, words in ((80, "height is 80; expected 1 to 64 pixels"), (40, "not a multiple of 16; try 32 or 48")):
        with pytest.raises(InvalidRequestError, match=words):
            door.check(SamplingParams(height=size))


def test_a_door_that_is_asked_for_endless_sizes_keeps_few_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace.models.sizes.door._MAX_KEPT", 4)
    door = LoadedSizeDoor(LoadedModel.around(FAMILIES["flux"].build()))
    for side in range(16, 48):
        door.check(SamplingParams(height=side))
    assert len(door._verdicts) <= 4


@pytest.mark.parametrize("name", ["flux", "qwen-image", "sana"])
def test_what_a_pipeline_rounds_by_itself_is_taken(saved: Callable[[str], Path], name: str) -> None:
    PipelineSizes.of(saved(name)).check({"height": 37, "width": 61})


def test_frames_are_rounded_by_pipelines_and_limited_by_motion_adapters(saved: Callable[[str], Path]) -> None:
    PipelineSizes.of(saved("wan")).check({"num_frames": 20})
    adapted = PipelineSizes.of(saved("animatediff"))
    adapted.check({"num_frames": 32})
    with pytest.raises(InvalidRequestError, match="num_frames is 33; expected 1 to 32"):
        adapted.check({"num_frames": 33})
    with pytest.raises(InvalidRequestError, match="StableDiffusion3Pipeline takes no num_frames"):
        PipelineSizes.of(saved("sd3.5")).check({"num_frames": 9})


def test_a_loaded_model_refuses_longer_films_than_its_motion_adapter_knows() -> None:
    mapper = ArgumentMapper(LoadedModel.around(FAMILIES["animatediff"].build()))
    with pytest.raises(InvalidRequestError, match="num_frames is 40; expected 1 to 32"):
        mapper.arguments(Request(request_id="a", prompt="a", sampling=SamplingParams(num_frames=40)))


def test_a_pipeline_that_does_not_say_is_no_reason_to_refuse(saved: Callable[[str], Path]) -> None:
    with pytest.raises(UnknownRuleError, match="doesn't say without weights"):
        PipelineSizes.of(saved("stable-audio"))
    door = SizeDoor(str(saved("dit")))
    door.check(SamplingParams(height=33))
    assert "DiTPipeline doesn't say" in str(door.why_unknown)


def test_parts_that_are_missing_are_no_reason_either(sd3: Path, tmp_path: Path) -> None:
    """As of a model of which only the index was downloaded: the scale of its autoencoder can't be guessed."""
    shutil.copy(sd3 / "model_index.json", tmp_path)
    door = SizeDoor(str(tmp_path))
    door.check(SamplingParams(height=33))
    assert "there is no" in str(door.why_unknown)


def test_a_model_that_says_its_sizes_is_asked_nothing_else(tmp_path: Path) -> None:
    code = (
        "import sys; from interlace.models.sizes.door import SizeDoor; from interlace.request import SamplingParams\n"
        "try: SizeDoor('demo').check(SamplingParams(height=100))\n"
        "except ValueError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "height 100 is not a multiple of 16; try 96 or 112"


def test_a_control_net_is_run_by_another_pipeline(sd3: Path) -> None:
    door = SizeDoor(str(sd3))
    with pytest.raises(InvalidRequestError, match="multiple of 4"):
        door.check(SamplingParams(height=66, width=64))
    door.check(SamplingParams(height=66, width=64, controlnet=({"name": "c", "image": Image.new("RGB", (8, 8))},)))  # type: ignore[arg-type]


@pytest.mark.parametrize("fetch", [True, False])
def test_of_a_hub_model_the_small_files_are_enough(sd3: Path, monkeypatch: pytest.MonkeyPatch, fetch: bool) -> None:
    asked: list[dict[str, Any]] = []

    def small_files(model: str, **options: Any) -> Path:
        asked.append({"model": model, **options})
        return sd3

    monkeypatch.setattr("interlace.models.sizes.door.small_files", small_files)
    door = SizeDoor("some/model-3.5-medium", revision="main", fetch=fetch)
    door.check(SamplingParams(seed=1))
    assert not asked
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="multiple of 4"):
            door.check(SamplingParams(height=66, width=64))
    assert asked == [{"model": "some/model-3.5-medium", "revision": "main", "local_files_only": not fetch}]


def test_only_small_files_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda model, **o: asked.update(o) or str(tmp_path))
    assert places.small_files("a/b") == tmp_path
    assert all(pattern.endswith(".json") for pattern in asked["allow_patterns"])


# Through the command line.


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, values)))
    return path


def test_a_row_with_such_a_size_is_bad_and_stops_no_other(
    sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = rows(tmp_path / "r.jsonl", {"prompt": "a"}, {"prompt": "b", "width": 66, "height": 64}, {"prompt": "c"})
    words = ["t2i", str(file), "--model", str(sd3), "-o", str(tmp_path / "out"), "--size", "32x32", "--steps", "2"]
    refusal = "r.jsonl:2: width 66 is not a multiple of 4, as StableDiffusion3Pipeline wants; try 64 or 68"
    assert run([*words, "--dry-run"]) == 1
    told = capsys.readouterr().out
    assert refusal in told
    assert "to make:   2" in told
    assert "not checked" not in told
    assert run([*words, "--strict"]) == 2
    assert "--strict wants all" in capsys.readouterr().err
    assert run(words) == 1
    assert refusal in capsys.readouterr().err.partition("loading")[0]
    assert len(list(read_manifest(tmp_path / "out"))) == 2
    (failed,) = read_failures(tmp_path / "out" / "failures.jsonl")
    assert failed["type"] == "InvalidRequestError"
    assert "try 64 or 68" in failed["error"]


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_nothing_is_loaded_where_every_row_has_such_a_size(
    sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    words = ["a", "--size", "66x30", "-o", str(tmp_path / "out"), *more]
    assert run(["t2i", *words, "--model", str(sd3)]) == 2
    told = capsys.readouterr().err
    assert "height 30 and width 66 are not multiples of 4" in told
    assert "loading" not in told
    assert run(["t2i", *words]) == 2
    assert "height is 30; expected 64 to 192 pixels for this model" in capsys.readouterr().err


def test_edits_films_and_stages_are_checked_too(
    sd3: Path, saved: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (128, 128), "red").save(picture)
    out = ["-o", str(tmp_path / "out"), "--dry-run"]
    assert run(["edit", str(picture), "make it blue", "--size", "100x96", *out]) == 2
    assert "width 100 is not a multiple of 16; try 96 or 112" in capsys.readouterr().err
    assert run(["t2v", "a", "--size", "40x32", "--model", str(saved("wan")), *out]) == 2
    assert "width 40 is not a multiple of 16, as WanPipeline wants; try 32 or 48" in capsys.readouterr().err
    stages = ["--ar-stage", "demo-expand", "--dit-stage", str(sd3)]
    assert run(["t2i", "a", "--size", "66x64", *stages, *out]) == 2
    assert "width 66 is not a multiple of 4" in capsys.readouterr().err


def test_a_dry_run_says_once_that_sizes_could_not_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    file = rows(tmp_path / "r.jsonl", *({"prompt": "a", "height": size} for size in (33, 44, 55)))
    assert run(["t2i", str(file), "--model", "nobody/nothing", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("not checked: nobody/nothing isn't on this machine yet") == 1
    assert run(["t2i", "a", "--model", "nobody/nothing", "--dry-run"]) == 0
    assert "not checked" not in capsys.readouterr().out
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"")
    assert run(["t2i", "a", "--size", "33x33", "--model", str(checkpoint), "--dry-run"]) == 0
    assert "is one file, which says it once it is loaded" in capsys.readouterr().out
    words = ["--component", f"vae={tmp_path}", "--size", "33x33", "--dry-run"]
    assert run(["t2i", "a", *words]) == 0
    assert "not checked: --component brings parts of its own" in capsys.readouterr().out


def test_a_models_own_limits_that_are_not_all_leave_the_rest_to_its_pipeline(sd3: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd3, tmp_path / "model")
    (folder / "interlace.json").write_text('{"limits": {"max_size": 64}}')
    door = SizeDoor(str(folder))
    for sizes, words in (({"height": 68}, "expected 1 to 64"), ({"height": 62, "width": 64}, "not a multiple of 4")):
        with pytest.raises(InvalidRequestError, match=words):
            door.check(SamplingParams(**sizes))
