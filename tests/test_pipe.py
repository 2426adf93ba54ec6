"""bulk/input/formats/pipe.py: prompts from standard input, which every reading and every process of a command sees."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_generator import FakeGenerator

import interlace
from interlace.bulk import generator as generator_module
from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interlace, "Omni", lambda model, **options: None, raising=False)
    monkeypatch.setattr(generator_module, "OmniGenerator", lambda omni, edit=None: FakeGenerator())
    monkeypatch.setenv("INTERLACE_STANDARD_INPUT", "")  # is set by what is tested


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("words", [["-"], ["--prompts-file", "-"], ["--overwrite", "-"], ["--", "-"], ["/dev/stdin"]])
def test_prompts_come_from_a_pipe_and_the_same_again_makes_nothing(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["t2i", "-o", str(tmp_path / "out"), *words]
    pipe(monkeypatch, "a red circle\n\nein Café\n\xff\n".encode("latin-1").replace(b"\xe9", "é".encode()))
    assert run(flags) == 1
    found = {line["id"]: line["prompt"] for line in read_manifest(tmp_path / "out")}
    assert found == {"000000": "a red circle", "000001": "ein Café"}
    assert "standard input:4: the line is not UTF-8 text" in capsys.readouterr().err
    pipe(monkeypatch, b"a red circle\nein Caf\xc3\xa9\n")
    assert run([flag for flag in flags if flag != "--overwrite"]) == 0
    assert "2 of 2 images are there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (["t2i", "-"], b"\n", "standard input is empty; expected one prompt a line"),
        (["t2i", "-"], b'{"prompt": "a"}\n', "standard input is JSON"),
        (["t2i", "-"], b"id;prompt\n1;a\n", "standard input is a table"),
        (["t2i", "a star", "-"], b"a\n", "standard input stands alone, without other prompts: interlace t2i -"),
        (["t2i", "--prompt", "-"], b"a\n", "standard input stands alone"),
        (["t2i", "-", "--split", "train"], b"a\n", "--split is for Hugging Face datasets"),
        (["t2i", "a", "--output-dir", "-"], b"a\n", "--output-dir requires an argument"),
        (["edit", "-"], b"a\n", "standard input gives one prompt a line, and edits have pictures"),
        (["edit", "--input", "-"], b"a\n", "standard input gives one prompt a line, and edits have pictures"),
    ],
)
def test_a_pipe_that_is_no_list_of_prompts_is_refused(
    words: list[str],
    data: bytes,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe(monkeypatch, data)
    assert run(words) == 2
    assert said in capsys.readouterr().err


def test_processes_of_a_command_share_its_standard_input(tmp_path: Path) -> None:
    flags = ["-", "-o", "out", "--size", "64x64", "--steps", "1", "--num-processes", "2", "--device", "cpu"]
    command = [sys.executable, "-m", "interlace", "t2i", *flags]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run(command, input=b"a red circle\na blue star\na dot\n", cwd=tmp_path, env=environment, check=True)
    assert sorted(line["prompt"] for line in read_manifest(tmp_path / "out")) == [
        "a blue star",
        "a dot",
        "a red circle",
    ]
    assert not list(tmp_path.glob("*.txt"))
