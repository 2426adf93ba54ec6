"""bulk/outlook.py and --strict, through the command line: a dry run tells what a run would do and writes nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_generator import FakeGenerator

import interlace
from interlace.bulk import generator as generator_module
from interlace.bulk.output.manifest import read_manifest
from interlace.cli.main import run
from interlace.demo import MODELS


@pytest.fixture
def t2i(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    monkeypatch.setattr(interlace, "Omni", lambda model, **options: None, raising=False)
    monkeypatch.setattr(generator_module, "OmniGenerator", lambda omni: FakeGenerator())
    return lambda *flags: run(["t2i", "--output-dir", str(tmp_path / "out"), *map(str, flags)])


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_tells_everything_and_writes_nothing(
    t2i: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"prompt": "a", "width": 64, "height": 96, "num_images": 3},
        {"prompt": "b", "num_inference_steps": 7},
        {"prompt": "c", "hight": 5},
    )
    assert t2i("--prompts-file", path, "--dry-run") == 1
    told = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert f"{path}:3: unknown column 'hight'; did you mean height?" in told
    for words in ("3, 1 of them", "images:    4", "64x96 (3), default (1)", "default (3), 7 (1)", "no earlier run"):
        assert words in told

    assert t2i("--prompts-file", path, "--limit", 2) == 0
    before = everything(tmp_path / "out")
    capsys.readouterr()
    assert t2i("--prompts-file", path, "--dry-run", "--rows", ":2") == 0
    told = capsys.readouterr().out
    assert "there:     4" in told
    assert "to make:   0" in told
    assert t2i("--prompts-file", path, "--dry-run", "--rows", ":2", "--height", 160) == 0
    assert "to make:   1, 1 of them again" in (told := capsys.readouterr().out)
    assert "images/s of the last run here" in told
    assert t2i("--prompts-file", path, "--dry-run", "--rows", ":2", "--overwrite") == 0
    assert "to make:   4" in capsys.readouterr().out
    assert everything(tmp_path / "out") == before


def test_a_dry_run_of_nothing_is_refused(
    t2i: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert t2i("--prompt", "a", "--dry-run", "--rows", "5:") == 2
    assert "--rows and --where choose none" in capsys.readouterr().err
    assert t2i("--prompt", "a", " ", "--dry-run", "--strict") == 2
    assert "--strict wants all" in capsys.readouterr().err


@pytest.mark.parametrize("summary", ["", "[]", "null", '{"images_per_s": "fast"}', '{"images_per_s": 0}', "{" * 9999])
def test_a_summary_that_says_nothing_gives_no_estimate(
    t2i: Callable[..., int], tmp_path: Path, summary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.json").write_text(summary)
    assert t2i("--prompt", "a", "--dry-run") == 0
    assert "unknown: no earlier run" in capsys.readouterr().out


def test_a_strict_run_makes_nothing_where_a_row_is_broken(
    t2i: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": ""})
    assert t2i("--prompts-file", path, "--strict") == 2
    assert f"1 of 2 rows can't be used, and --strict wants all; the first: {path}:2" in capsys.readouterr().err
    assert list(read_manifest(tmp_path / "out")) == []
    assert json.loads((tmp_path / "out" / "failures.jsonl").read_text())["where"] == f"{path}:2"
    assert t2i("--prompts-file", path, "--strict", "--limit", 1) == 0


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that no one can read")
def test_a_model_with_an_unreadable_file_is_refused(
    t2i: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODELS["demo"].path, model)
    (model / "interlace.json").unlink()
    (model / "interlace.json").symlink_to("/proc/self/mem")  # a plain file that no one can read from its beginning
    assert t2i("--prompt", "a", "--model-name", model) == 2
    said = capsys.readouterr().err
    assert f"cannot read the model's files in {model}" in said


@pytest.mark.parametrize("change", ["weights", "defaults", "model card", "an output beside it"])
def test_a_model_that_changed_under_its_name_makes_its_images_again(
    t2i: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODELS["demo"].path, model)
    (tmp_path / "p.txt").write_text("a\nb\n")
    flags = ("--prompts-file", tmp_path / "p.txt", "--model-name", model)
    assert t2i(*flags) == 0
    if change == "weights":
        path = model / "transformer" / "diffusion_pytorch_model.safetensors"
        middle = path.stat().st_size // 2
        data = path.read_bytes()
        path.write_bytes(data[:middle] + bytes(1 << 17) + data[middle + (1 << 17) :])
    elif change == "defaults":
        settings = json.loads((model / "interlace.json").read_text())
        (model / "interlace.json").write_text(json.dumps(settings | {"description": "another"}))
    elif change == "model card":
        (model / "README.md").write_text("words for people")
    else:
        (model / "out").mkdir()
        (model / "out" / "0.png").write_bytes(b"no part of the model")
    capsys.readouterr()
    assert t2i(*flags, "--dry-run") == 0
    again = 2 if change in ("weights", "defaults") else 0
    assert f"to make:   {again}" in capsys.readouterr().out
