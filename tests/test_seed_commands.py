"""Commands as people write them for other tools of this kind: snake_case flags, a model name, a prompts file."""

import json
from pathlib import Path

import pytest
from PIL import Image

from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run

SMALL = ["--height", "64", "--width", "64", "--num_inference_steps", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with prompts.jsonl, prompts.csv, data.csv and pictures."""
    monkeypatch.chdir(tmp_path)
    prompts = ["A serene mountain landscape at sunset", "A futuristic cityscape with flying cars", "A cozy cabin"]
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    Path("prompts.csv").write_text("prompt\n" + "".join(f'"{prompt}"\n' for prompt in prompts))
    edits = ["Make the sky more blue", "Add a rainbow", "Convert to oil painting style", "Make it look like night time"]
    rows = [f'image{number}.png,"{edit}"\n' for number, edit in enumerate(edits, 1)]
    Path("data.csv").write_text("input_images,instruction\n" + "".join(rows))
    for number in range(1, 5):
        Image.new("RGB", (64, 64), (60 * number, 90, 30)).save(f"image{number}.png")
    return tmp_path


@pytest.mark.parametrize("prompts", ["prompts.jsonl", "prompts.csv"])
def test_t2i_in_batches(folder: Path, prompts: str) -> None:
    command = ["t2i", "--backend", "diffusers", "--model_name", "demo", "--prompts_file", prompts, "--batch_size", "4"]
    assert run([*command, *SMALL]) == 0
    assert len(list(read_manifest(folder / "output"))) == 3


def test_edits_in_batches(folder: Path) -> None:
    command = [
        "edit",
        "--backend",
        "diffusers",
        "--model_name",
        "demo-edit",
        "--input",
        "data.csv",
        "--batch_size",
        "2",
    ]
    assert run([*command, "--output_dir", "./output", *SMALL]) == 0
    lines = list(read_manifest(folder / "output"))
    assert {line["prompt"] for line in lines} >= {"Make the sky more blue", "Add a rainbow"}
    assert len(lines) == 4


def test_with_everything_that_saves_memory_and_time(folder: Path) -> None:
    command = ["t2i", "--backend", "diffusers", "--model_name", "demo", "--prompts_file", "prompts.jsonl"]
    command += [
        "--batch_size",
        "4",
        "--enable_vae_slicing",
        "--attention_backend",
        "native",
        "--torch_dtype",
        "bfloat16",
    ]
    command += ["--cache_type", "first_block_cache", "--height", "64", "--width", "64", "--num_inference_steps", "6"]
    assert run(command) == 0
    assert len(list(read_manifest(folder / "output"))) == 3


def test_four_nodes_make_each_row_once_into_one_folder(folder: Path) -> None:
    for rank in range(4):
        command = ["t2i", "--backend", "diffusers", "--prompts_file", "prompts.jsonl", "--batch_size", "4"]
        assert run([*command, "--node_rank", str(rank), "--num_nodes", "4", *SMALL]) == 0
    assert sorted(line["id"] for line in read_manifest(folder / "output")) == ["000000", "000001", "000002"]


def test_more_gpus_than_there_are_are_refused_by_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["t2i", "--backend", "xdit", "--model_name", "FLUX.1-dev", "--prompts_file", "prompts.jsonl"]
    assert run([*command, "--batch_size", "8", "--num_gpus", "800"]) == 2
    assert "num_gpus is 800" in capsys.readouterr().err
