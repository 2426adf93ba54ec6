"""`interlace edit`: rows with pictures through the whole command, and every type of model against stock diffusers."""

import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run
from interlace.demo import MODELS
from interlace.errors import InvalidRequestError, ModelLoadError
from interlace.models.editing import EDIT_MODELS, EditModel, SizeRule, find_edit_model
from tests.edit_models import compare
from tests.zoo.family import picture

DOC = (Path(__file__).parent.parent / "docs" / "editing.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
SMALL = ("--num-inference-steps", "1", "--height", "64", "--width", "64")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with three pictures of different shapes and a table of edits."""
    for number, size in enumerate([(64, 64), (96, 64), (64, 112)]):
        picture(number, size).save(tmp_path / f"{number}.png")
    lines = ["id,input_images,instruction", "a,0.png,make it blue", "b,1.png,make it red", "c,2.png,make it green"]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def edit(folder: Path, *flags: object) -> int:
    return run(["edit", "--output-dir", str(folder / "out"), "--no-html", *map(str, flags)])


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["id"]: record for record in read_manifest(folder / "out")}


def failures(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "out/failures.jsonl").read_text().splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def test_a_table_of_edits_on_the_built_in_model_and_resume(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(data, "--input", data / "data.csv", "--num-inference-steps", 1) == 0
    first = manifest(data)
    assert {name: (one["width"], one["height"]) for name, one in first.items()} == {
        "a": (128, 128),
        "b": (144, 96),
        "c": (96, 160),
    }, "the shape of the picture, at the model's own area"
    assert first["b"]["input_images"] == ["1.png"]
    assert first["b"]["pipeline"] == "FluxKontextPipeline"
    before = {path: path.stat().st_mtime_ns for path in (data / "out").glob("*.png")}
    (data / "out/b.png").unlink()
    assert edit(data, "--input", data / "data.csv", "--num-inference-steps", 1) == 0
    assert "2 of 3 images are there already" in capsys.readouterr().err
    assert manifest(data)["b"]["request_key"] == first["b"]["request_key"]
    assert {path for path, time in before.items() if path.stat().st_mtime_ns != time} == {data / "out/b.png"}


def test_one_picture_and_many_instructions(data: Path) -> None:
    flags = ("--image", data / "1.png", "--prompt", "make it blue", "make it red", *SMALL)
    assert edit(data, *flags) == 0
    made = manifest(data)
    assert {name: one["prompt"] for name, one in made.items()} == {"000000": "make it blue", "000001": "make it red"}
    assert (made["000000"]["width"], made["000000"]["height"]) == (128, 128), "a size that was asked for"


def test_every_way_to_give_a_picture(data: Path) -> None:
    content = (data / "0.png").read_bytes()
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    (data / "elsewhere").mkdir()
    (data / "elsewhere/0.png").write_bytes(content)
    rows = [
        {"id": "path", "input_images": "0.png", "instruction": "make it blue"},
        {"id": "list", "input_images": ["0.png"], "prompt": "make it blue"},
        {"id": "url", "input_images": url, "instruction": "make it blue"},
        {"id": "absolute", "input_images": str(data / "elsewhere/0.png"), "instruction": "make it blue"},
    ]
    (data / "rows.jsonl").write_text("".join(json.dumps({**row, "seed": 1}) + "\n" for row in rows))
    assert edit(data, "--input", data / "rows.jsonl", "--num-inference-steps", 1) == 0
    pixels = [np.asarray(Image.open(data / "out" / f"{row['id']}.png")).astype(int) for row in rows]
    assert all(np.abs(one - pixels[0]).max() <= 1 for one in pixels)
    assert len({one["input_sha256"][0] for one in manifest(data).values()}) == 1


def test_pictures_inside_parquet(data: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = (data / "0.png").read_bytes()
    columns = {
        "input_images": [[{"bytes": content, "path": "x.png"}], [{"bytes": None, "path": "1.png"}]],
        "instruction": ["make it blue", "make it red"],
    }
    parquet.write_table(pa.table(columns), data / "rows.parquet")
    assert edit(data, "--input", data / "rows.parquet", "--num-inference-steps", 1) == 0
    made = manifest(data)
    assert [made[name]["input_images"] for name in sorted(made)] == [["x.png"], ["1.png"]]


def test_a_folder_of_pictures_with_metadata(data: Path) -> None:
    (data / "metadata.jsonl").write_text('{"file_name": "0.png", "instruction": "make it blue", "licence": "cc0"}\n')
    assert edit(data, "--input", data, "--num-inference-steps", 1) == 0
    assert manifest(data)["000000"]["input_images"] == ["0.png"]


def test_bad_rows_fail_alone_with_file_and_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "broken.png").write_bytes((data / "0.png").read_bytes()[:500])
    rows = [
        {"id": "good", "input_images": "0.png", "instruction": "make it blue"},
        {"id": "missing", "input_images": "none.png", "instruction": "make it blue"},
        {"id": "broken", "input_images": "broken.png", "instruction": "make it blue"},
        {"id": "two", "input_images": ["0.png", "1.png"], "instruction": "make it blue"},
        {"id": "web", "input_images": "http://example.com/a.png", "instruction": "make it blue"},
        {"id": "none", "instruction": "make it blue"},
        {"id": "silent", "input_images": "0.png"},
    ]
    file = data / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert edit(data, "--input", file, "--num-inference-steps", 1) == 1
    assert list(manifest(data)) == ["good"]
    failed = failures(data)
    wheres = {name: line["where"] for name, line in failed.items()}
    assert wheres == {row["id"]: f"{file}:{n}" for n, row in enumerate(rows, 1) if n > 1}
    for name, words in {
        "missing": "No such file",
        "broken": "no whole picture",
        "two": "FluxKontextPipeline edits one picture",
        "web": "--allow-remote-images",
        "none": "no input_images",
        "silent": "no prompt",
    }.items():
        assert words in failed[name]["error"], failed[name]
    assert f"{file}:2: the image 'none.png'" in capsys.readouterr().err, "before the work starts"


def test_a_moved_data_set_is_not_edited_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--num-inference-steps", 1, "--limit", 2)
    assert edit(data, "--input", data / "data.csv", *flags) == 0
    moved = data / "moved"
    moved.mkdir()
    for path in [*data.glob("?.png"), data / "data.csv"]:
        (moved / path.name).write_bytes(path.read_bytes())
    assert edit(data, "--input", moved / "data.csv", *flags) == 0
    assert "2 of 2 images are there already" in capsys.readouterr().err
    picture(9, (64, 96)).save(moved / "0.png")
    assert edit(data, "--input", moved / "data.csv", *flags) == 0
    assert "1 of 2 images are there already" in capsys.readouterr().err


def test_verify_sees_a_picture_of_equal_size_and_other_bytes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "one.csv").write_text("input_images,instruction\n0.bmp,make it blue\n")
    flags = ("--input", data / "one.csv", "--num-inference-steps", 1)
    picture(1, 64).save(data / "0.bmp")
    assert edit(data, *flags) == 0
    picture(2, 64).save(data / "0.bmp")
    assert edit(data, *flags) == 0
    assert "1 of 1 images are there already" in capsys.readouterr().err
    assert edit(data, *flags, "--verify") == 0
    assert "made again" in capsys.readouterr().err
    assert edit(data, *flags, "--verify") == 0
    assert "1 of 1 images are there already" in capsys.readouterr().err


def test_a_dry_run_finds_bad_rows_and_writes_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (data / "data.csv").open("a") as file:
        file.write("d,none.png,make it blue\n")
    assert edit(data, "--input", data / "data.csv", "--dry-run") == 1
    out = capsys.readouterr().out
    assert "data.csv:5: the image 'none.png' can't be read" in out
    assert "to make:   3" in out
    assert not (data / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to edit"),
        (["--image", "0.png"], "say what to do with it"),
        (["--input", "a.csv", "--image", "0.png", "--prompt", "a"], "either --input"),
        (["--image", "none.png", "--prompt", "a"], "No such file"),
        (["--image", "0.png", "1.png", "--prompt", "a"], "FluxKontextPipeline edits one picture"),
        (["--input", "data.csv", "--images-dir", "nowhere"], "is not a folder"),
        (["--input", "data.csv", "--model-type", "qwenn"], "did you mean qwen"),
        (
            ["--input", "data.csv", "--model-name", str(MODELS["demo"].path)],
            "is a FluxPipeline; expected one of QwenImageEdit",
        ),
        (["--input", "data.csv", "--model-name", "nowhere/at-all", "--local-files-only"], "cannot find model"),
    ],
)
def test_unusable_flags_give_status_2(
    data: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    assert edit(data, *flags) == 2
    assert words in capsys.readouterr().err


def test_the_type_is_found_from_the_model(tmp_path: Path) -> None:
    def of(**index: object) -> EditModel:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return find_edit_model(str(tmp_path))

    for name, one in EDIT_MODELS.items():
        assert of(_class_name=one.pipeline, is_distilled=True).name == name
    assert of(_class_name="Flux2KleinPipeline", is_distilled=True).defaults["num_inference_steps"] == 4
    assert of(_class_name="Flux2KleinPipeline").defaults == {"num_inference_steps": 50, "guidance_scale": 4.0}
    with pytest.raises(InvalidRequestError, match=r"longcat.*--model-type"):
        of(_class_name="StableDiffusionPipeline")
    (tmp_path / "model_index.json").write_text("[")
    with pytest.raises(ModelLoadError, match="diffusers' format"):
        find_edit_model(str(tmp_path))


def test_the_user_knows_better_than_the_model() -> None:
    assert find_edit_model("demo", "flux1-kontext").pipeline == "FluxKontextPipeline"
    assert find_edit_model("demo", "QwenImageEditPipeline").name == "qwen_singleimg"
    assert find_edit_model("demo", "FluxImg2ImgPipeline").max_images == 1


@pytest.mark.parametrize(
    ("given", "exact", "other"),
    [
        ((128, 128), (128, 128), (128, 128)),
        ((96, 64), (144, 96), (96, 64)),
        ((1000, 500), (176, 80), (192, 96)),
        ((30, 40), (96, 144), (64, 64)),
        ((2000, 100), (192, 80), (192, 64)),
    ],
)
def test_an_edit_has_its_picture_s_shape(
    given: tuple[int, int], exact: tuple[int, int], other: tuple[int, int]
) -> None:
    limits = {"min_size": 64, "max_size": 192, "multiple_of": 16}
    assert SizeRule(multiple=16, area=1 << 20, is_exact=True).size(given, {"max_area": 128 * 128}, limits) == exact
    assert SizeRule(multiple=16, area=1 << 22, is_exact=False).size(given, {}, limits) == other


def test_any_pipeline_that_takes_a_picture_edits(data: Path) -> None:
    flags = ("--image", data / "1.png", "--prompt", "a red circle", "--model-name", "demo", "--strength", "0.6")
    assert edit(data, *flags, "--model-type", "FluxImg2ImgPipeline", "--num-inference-steps", 2) == 0
    record = manifest(data)["000000"]
    assert (record["pipeline"], record["strength"]) == ("FluxImg2ImgPipeline", 0.6)
    assert (record["width"], record["height"]) == (96, 64), "the picture's"


def test_a_sibling_pipeline_of_the_built_in_model_draws_what_the_prompt_says(tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), "white").save(tmp_path / "white.png")
    flags = ("--image", tmp_path / "white.png", "--prompt", "a large red circle on a white background", "--seed", "1")
    model = ("--model-name", "demo", "--model-type", "FluxImg2ImgPipeline", "--strength", "0.95")
    assert edit(tmp_path, *flags, *model, "--num-inference-steps", 12) == 0
    with Image.open(tmp_path / "out/000000.png") as drawn:
        pixels = np.asarray(drawn).astype(int)
    red = (pixels[..., 0] - pixels[..., 1:].max(axis=-1)) > 80
    assert 0.05 < red.mean() < 0.7, "a red circle, and not the blank picture that too long a text makes"


def test_a_mask_says_where_to_edit(data: Path) -> None:
    hole = np.zeros((64, 96), np.uint8)
    hole[:, 48:] = 255
    Image.fromarray(hole).save(data / "mask.png")
    rows = [{"id": "a", "input_images": "1.png", "instruction": "a red circle", "mask": "mask.png"}]
    rows += [{"id": "b", "input_images": "0.png", "instruction": "a red circle", "mask": "mask.png"}]
    (data / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = (
        "--model-name",
        "demo",
        "--model-type",
        "FluxInpaintPipeline",
        "--strength",
        "1",
        "--num-inference-steps",
        2,
    )
    assert edit(data, "--input", data / "rows.jsonl", *model) == 1
    assert "the mask is 96x64, its picture 64x64" in failures(data)["b"]["error"]
    with Image.open(data / "out/a.png") as drawn, Image.open(data / "1.png") as before:
        moved = np.abs(np.asarray(drawn).astype(int) - np.asarray(before)).mean(axis=(0, 2))
    assert moved[60:].mean() > 2 * moved[:36].mean(), "the right half is another picture"
    assert manifest(data)["a"]["input_images"] == ["1.png", "mask.png"]
    assert edit(data, "--image", data / "1.png", "--prompt", "x", "--mask", data / "mask.png", *SMALL) == 1


@pytest.mark.parametrize("name", EDIT_MODELS)
def test_mixed_edits_equal_diffusers_alone(name: str, tmp_path: Path) -> None:
    """Different pictures, sizes, numbers of pictures, instructions, steps and guidance, all at once."""
    found = compare(name, tmp_path, tolerance=0.5)
    assert found.difference <= 1, "in steps of 255"
    assert found.num_rows == 6
    if name != "glm_image":
        assert found.mean_rows > 1.1, "also where sizes and numbers of pictures differ"


def test_the_commands_of_the_documentation_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, name, text in BLOCKS:
        if name:
            Path(name).write_text(text)
        elif kind == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                assert run([*words[1:], "--num-inference-steps", "2"]) == 0, line
    assert {record["id"] for record in read_manifest(Path("edited-by-table"))} == {"blue", "green"}


def test_the_documented_table_names_every_type() -> None:
    for name, one in EDIT_MODELS.items():
        lines = [line for line in DOC.splitlines() if line.startswith(f"| {name} | {one.pipeline}")]
        assert len(lines) == 2, "defaults and batching"
        assert all(("| many |" in line) == one.many for line in lines)
        assert f"| {one.defaults['num_inference_steps']}" in lines[0]
