"""`interlace answer`: rows of text, pictures and sound, each answered once, written or spoken, as alone."""

import io
import json
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interlace import Omni
from interlace.cli.main import run
from interlace.media.sound import encode_wav
from interlace.stages.omni.families import omni_stage
from tests.stages.omni_models import save_qwen2_5_omni

TONE = (np.sin(np.arange(8000) / 9).astype(np.float32), 16000)
OPTIONS = ["--torch-dtype", "float32", "--temperature", "0", "--no-html"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_qwen2_5_omni(tmp_path_factory.mktemp("omni") / "model"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of rows beside what they see and hear."""
    Image.linear_gradient("L").resize((56, 84)).convert("RGB").save(tmp_path / "seen.png")
    (tmp_path / "heard.wav").write_bytes(encode_wav(TONE[0][None], TONE[1]))
    given = [
        {"id": "plain", "prompt": "say it", "max_tokens": 9},
        {"id": "sees", "prompt": "what is it", "image": "seen.png"},
        {"id": "hears", "audio": "heard.wav", "voice": "Ethan"},
        {"id": "both", "prompt": "what is that", "multi_modal_data": {"image": ["seen.png"], "audio": "heard.wav"}},
        {"id": "lost", "prompt": "what is it", "image": "nowhere.png"},
        {"id": "twice", "prompt": "x", "image": "seen.png", "multi_modal_data": {"audio": "heard.wav"}},
        {"id": "draws", "prompt": "x", "height": 64},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    read = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return {line["id"]: line for line in read}


def command(rows: Path, out: Path, model: str, *words: str) -> list[str]:
    return ["answer", "--prompts-file", str(rows), "--output-dir", str(out), "--model", model, *OPTIONS, *words]


def test_rows_are_answered_once_as_alone_and_bad_ones_are_told(rows: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    asked = command(rows, out, model, "--max-tokens", "6")
    assert run(asked) == 1
    made = lines(out)
    assert set(made) == {"plain", "sees", "hears", "both"}
    for name, line in made.items():
        assert (out / f"{name}.txt").read_text(encoding="utf-8") == line["text"]
    failed = [json.loads(line)["error"] for line in (out / "failures.jsonl").read_text().splitlines()]
    assert ["can't be read" in failed[0], "expected one of them" in failed[1]] == [True, True]
    assert "unknown column 'height'" in failed[2]
    seen = Image.open(tmp_path / "seen.png")
    alone = [
        {"prompt": "say it", "max_tokens": 9},
        {"prompt": "what is it", "max_tokens": 6, "multi_modal_data": {"image": seen}},
        {"max_tokens": 6, "multi_modal_data": {"audio": str(tmp_path / "heard.wav")}},
    ]
    with Omni(stages=[omni_stage(model, dtype="float32")]) as omni:
        outputs = omni.generate([{**request, "temperature": 0.0} for request in alone], raise_on_error=True)
    assert [made[name]["text"] for name in ("plain", "sees", "hears")] == [output.text for output in outputs]
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.txt")}
    assert run(asked) == 1
    assert stamps == {path.name: path.stat().st_mtime_ns for path in out.glob("*.txt")}
    assert run([*asked, "--system-prompt", "Be brief."]) == 1  # another question: everything is answered anew
    assert all(path.stat().st_mtime_ns != stamps[path.name] for path in out.glob("*.txt"))


def test_answers_are_spoken_and_a_run_that_is_killed_goes_on(tmp_path: Path, model: str) -> None:
    out, rows = tmp_path / "out", tmp_path / "rows.txt"
    rows.write_text("say it\nsay more than that\nsing\nwho are you\n")
    asked = command(rows, out, model, "--output-format", "wav", "--max-tokens", "6", "--max-speech-tokens", "12",
                    "--voice", "Ethan", "--batch-size", "2")  # fmt: skip
    killed = subprocess.run(
        [sys.executable, "-m", "interlace", *asked],
        env={**os.environ, "INTERLACE_FAULT": "line written:2"},
        capture_output=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = lines(out)
    assert 0 < len(before) < 4
    assert run(asked) == 0
    made = lines(out)
    assert sorted(line["file"] for line in made.values()) == [f"{i:06d}.wav" for i in range(4)]
    assert all(made[name] == line for name, line in before.items())
    for line in made.values():
        data = (out / line["file"]).read_bytes()
        with wave.open(io.BytesIO(data)) as sound:
            assert (sound.getframerate(), sound.getnframes() > 0) == (24000, True)
        assert line["text"]
        assert (line["sample_rate"], line["voice"]) == (24000, "Ethan")


def test_models_that_do_not_speak_or_write_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["answer", "a star", "-o", str(tmp_path / "a")]) == 2
    assert "demo draws pictures; name a model that writes" in capsys.readouterr().err
    assert run(["answer", "a star", "--model", "demo-expand", "--output-format", "wav", "-o", str(tmp_path / "b")]) == 2
    assert "demo-expand doesn't speak; take --output-format txt" in capsys.readouterr().err
    assert run(["answer", "a star", "--model", "demo-expand", "-o", str(tmp_path / "c")]) == 0
    [line] = lines(tmp_path / "c").values()
    assert line["text"] == (tmp_path / "c" / line["file"]).read_text(encoding="utf-8")
