"""cli/main.py and cli/flags: flags from four places, exit statuses, and the real thing from a prompt to a picture."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_generator import BROKEN, FakeGenerator
from PIL import Image

import interlace
from interlace.bulk import generator as generator_module
from interlace.bulk import run as run_module
from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run
from interlace.config import EngineConfig


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What t2i asks `Omni` for; the pictures come from a `FakeGenerator`."""
    asked: dict[str, Any] = {"faults": {}}

    def fake_omni(model: str, **options: Any) -> dict[str, Any]:
        asked.update(model=model, **options)
        return asked

    monkeypatch.setattr(interlace, "Omni", fake_omni, raising=False)
    monkeypatch.setattr(generator_module, "OmniGenerator", lambda omni: FakeGenerator(faults=asked["faults"]))
    return asked


@pytest.fixture
def t2i(seen: dict[str, Any], tmp_path: Path) -> Callable[..., int]:
    return lambda *flags: run(["t2i", "--output-dir", str(tmp_path / "out"), *map(str, flags)])


def test_prompts_become_pictures(t2i: Callable[..., int], tmp_path: Path) -> None:
    assert t2i("--prompt", "a red circle", "a blue star", "--prompt", "third") == 0
    lines = {record["id"]: record["prompt"] for record in read_manifest(tmp_path / "out")}
    assert lines == {"000000": "a red circle", "000001": "a blue star", "000002": "third"}


def test_both_spellings_of_every_engine_flag(t2i: Callable[..., int], seen: dict[str, Any], tmp_path: Path) -> None:
    for flags in (["--max-batch-rows", "7"], ["--max_batch_rows", "7"], ["--max-batch-rows=7"]):
        assert t2i("--prompt", "a", "--overwrite", *flags) == 0
        assert seen["max_batch_rows"] == 7
    assert {field.name for field in fields(EngineConfig)} <= set(seen)


@pytest.mark.parametrize("flag", ["--batch-size", "--batch_size", "--max-num-seqs"])
def test_batch_size_is_the_number_of_requests_in_flight(
    t2i: Callable[..., int], seen: dict[str, Any], flag: str
) -> None:
    assert t2i("--prompt", "a", flag, 3, "--no-step-execution", "--verify_fusion", "off") == 0
    assert (seen["max_num_seqs"], seen["step_execution"], seen["verify_fusion"]) == (3, False, "off")


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    t2i: Callable[..., int], seen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("max_num_seqs: 2\nmax_batch_rows: 3\nnum-requests: 5\nt2i: {max_batch_tokens: 4, prompt: [a, b]}\n")
    monkeypatch.setenv("INTERLACE_MAX_BATCH_ROWS", "30")
    monkeypatch.setenv("INTERLACE_MAX_BATCH_TOKENS", "40")
    assert t2i("--config", file, "--max-batch-tokens", 400) == 0
    assert (seen["max_num_seqs"], seen["max_batch_rows"], seen["max_batch_tokens"]) == (2, 30, 400)
    assert len(list(read_manifest(tmp_path / "out"))) == 2


def test_the_config_file_may_be_named_in_the_environment(
    t2i: Callable[..., int], seen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flags.yaml").write_text("batch_size: 5\n")
    monkeypatch.setenv("INTERLACE_CONFIG", str(tmp_path / "flags.yaml"))
    assert t2i("--prompt", "a") == 0
    assert seen["max_num_seqs"] == 5


def test_parameters_reach_the_manifest_and_rows_win(t2i: Callable[..., int], tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a", "id": "x"}\n{"prompt": "b", "negative_prompt": "own", "seed": 9}\n{"prompt": "c"}\n'
    )
    assert t2i("--prompts-file", file, "--negative-prompt", "all", "--limit", 2, "--seed", 1) == 0
    records = {record["id"]: record for record in read_manifest(tmp_path / "out")}
    assert {name: record["negative_prompt"] for name, record in records.items()} == {"x": "all", "000001": "own"}
    assert records["000001"]["seed"] == 9


def test_failed_rows_give_status_1_and_bad_ones_too(
    t2i: Callable[..., int], seen: dict[str, Any], tmp_path: Path
) -> None:
    seen["faults"] = {"000001": BROKEN}
    assert t2i("--prompt", "a", "b") == 1
    seen["faults"] = {}
    assert t2i("--prompt", "a", "b") == 0
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    assert t2i("--prompts-file", file) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt", "a", "--prompts-file", "p.txt"], "not both"),
        (["--prompts-file", "missing.jsonl"], "does not exist"),
        (["--prompts-file", "p.docx"], "expected one of .csv"),
        (["--prompt", "a", "--height", "0"], "height is 0"),
        (["--prompt", "a", "--height", "tall"], "--height"),
        (["--prompt", "a", "--hight", "64"], "did you mean --height"),
        (["--prompt", "a", "--batch-size", "0"], "max_num_seqs is 0"),
        (["--prompt", "a", "--verify-fusion", "maybe"], "first"),
        (["--prompt", "a", "--backend", "nothing"], "not available"),
        (["--prompt", "a", "--limit", "0"], "limit is 0"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a", "--config", "missing.yaml"], "missing.yaml"),
        (["--prompt", "a", "--config"], "--config needs a file"),
    ],
)
def test_unusable_flags_give_status_2_and_a_short_reason(
    t2i: Callable[..., int], flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert t2i(*flags) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) <= 2
    assert captured.out == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hight: 3\n", "flags.yaml: unknown key 'hight'; did you mean height?"),
        ("[1, 2]", "expected keys"),
        ("a: [", "can't read"),
    ],
)
def test_a_wrong_config_file_gives_status_2(
    t2i: Callable[..., int], tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flags.yaml").write_text(text)
    assert t2i("--prompt", "a", "--config", tmp_path / "flags.yaml") == 2
    assert words in capsys.readouterr().err


def test_an_unforeseen_error_is_told_without_a_traceback(
    t2i: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "survey", lambda *arguments: 1 / 0)
    assert t2i("--prompt", "a") == 1
    assert "unexpected ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["t2i"], ["info"], ["bench"], ["bench", "throughput"]])
def test_help_teaches_with_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "interlace t2i" in text or f"interlace {' '.join(command)}" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == interlace.__version__


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_tiny_flux

    return save_tiny_flux(tmp_path_factory.mktemp("model"))


def test_info_describes_a_model_without_loading_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "--model-name", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"]
    assert facts["machine"]["cpus"] >= 1
    described = facts["model"]
    assert described["pipeline"] == "FluxPipeline"
    assert described["components"]["transformer"].startswith("FluxTransformer2DModel, ")
    assert described["default_arguments"]["num_inference_steps"] == 3
    assert "share forwards" in described["batching"]


def test_info_describes_a_language_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "--model-name", "demo-expand", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)["model"]
    assert described["language_model"].startswith("LlamaForCausalLM, ")
    assert described["context_tokens"] == 64


@pytest.mark.parametrize("text", ["{}", "[1]", "{"])
def test_info_of_a_broken_index_gives_status_2(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model_index.json").write_text(text)
    assert run(["info", "--model-name", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "model_index.json" in said
    assert "unexpected" not in said


@pytest.mark.parametrize("command", ["info", "t2i"])
@pytest.mark.parametrize("model_name", ["~no-such-user/model", "demo-expand/none", "no/such/model/at/all"])
def test_a_name_of_no_model_gives_status_2(
    command: str, model_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--prompt", "a", "--output-dir", str(tmp_path / "out")] if command == "t2i" else []
    assert run([command, "--model-name", model_name, *flags]) == 2
    said = capsys.readouterr().err
    assert model_name in said
    assert "unexpected" not in said


@pytest.mark.parametrize("command", ["info", "t2i"])
def test_a_model_that_is_none_gives_status_2(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    flags = ["--prompt", "a", "--output-dir", str(tmp_path / "out")] if command == "t2i" else []
    assert run([command, "--model-name", str(tmp_path / "empty"), *flags]) == 2
    assert "model_index.json" in capsys.readouterr().err


def test_pictures_of_a_real_pipeline_are_the_ones_that_diffusers_makes(model: Path, tmp_path: Path) -> None:
    import torch
    from diffusers import DiffusionPipeline

    file = tmp_path / "p.csv"
    file.write_text("prompt,seed,num_inference_steps,height\na red circle,3,2,32\na blue star,4,4,32\nx,5,3,48\n")
    flags = ["--model-name", str(model), "--prompts-file", str(file), "--output-dir", str(tmp_path / "out")]
    assert run(["t2i", *flags]) == 0
    pipeline = DiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    records = list(read_manifest(tmp_path / "out"))
    assert len(records) == 3
    for record in records:
        names = ("prompt", "height", "width", "num_inference_steps", "guidance_scale", "max_sequence_length")
        generator = torch.Generator().manual_seed(record["seed"])
        alone = pipeline(**{name: record[name] for name in names}, generator=generator).images[0]
        with Image.open(tmp_path / "out" / record["file"]) as ours:
            assert np.abs(np.asarray(alone, dtype=int) - np.asarray(ours, dtype=int)).max() <= 1


def test_a_killed_run_goes_on_with_nothing_lost_doubled_or_different(model: Path, tmp_path: Path) -> None:
    """One request at a time and the modules as diffusers wrote them, so that the same bits can be asked for."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("".join(f"prompt {number}\n" for number in range(40)))
    flags = ["--model-name", str(model), "--prompts-file", str(prompts), "--batch-size", "1", "--optimize", "off"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "interlace", "t2i", *flags, "--output-dir", str(killed)]
    ended = subprocess.run(command, env={**os.environ, "INTERLACE_FAULT": "half a line:6"}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(killed.glob("*.png"))) > 5
    assert run(["t2i", *flags, "--output-dir", str(killed)]) == 0
    assert run(["t2i", *flags, "--output-dir", str(whole)]) == 0
    assert sorted(record["file"] for record in read_manifest(killed)) == [f"{n:06d}.png" for n in range(40)]
    assert not list(killed.glob(".tmp-*"))
    for path in whole.glob("*.png"):
        assert (killed / path.name).read_bytes() == path.read_bytes(), path.name
