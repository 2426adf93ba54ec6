"""Films and sounds by the thousand: rows with lengths and first pictures, resumed, reported, or refused."""

import json
import re
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from interlace import Omni
from interlace.bulk.generator import OmniGenerator
from interlace.cli import session
from interlace.cli.main import run
from interlace.models.loader import LoadedModel
from tests.zoo import FAMILIES
from tests.zoo.family import picture

FILM = {"height": 16, "width": 16, "num_inference_steps": 1, "max_sequence_length": 16, "num_frames": 5}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[LoadedModel]:
    """The models that commands load by the names tiny-wan and tiny-audio, and how often one was opened."""
    models = {
        "tiny-wan": LoadedModel("tiny-wan", FAMILIES["wan"].build(), FILM),
        "tiny-i2v": LoadedModel("tiny-i2v", FAMILIES["wan-ti2v"].build(), FILM),
        "tiny-audio": LoadedModel("tiny-audio", FAMILIES["stable-audio"].build(), {"num_inference_steps": 1}),
    }
    opened: list[LoadedModel] = []

    def open_tiny(flags: Any, engine: Any, *rest: Any) -> OmniGenerator:
        opened.append(models[flags.model.model_name])
        return OmniGenerator(Omni(opened[-1], **vars(engine)))

    monkeypatch.setattr(session, "open_generator", open_tiny)
    return opened


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_rows_of_films_are_made_once_and_told(
    tiny: list[LoadedModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "a", "prompt": "a fox", "num_frames": 9, "fps": 8},
        {"id": "b", "prompt": "a boat", "seconds": 0.5, "seed": 4},
        {"id": "c", "prompt": "a cat", "image": "first.png"},
        {"id": "d", "prompt": "a cat", "seconds": 1, "num_frames": 5},
    ]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture(1).save(tmp_path / "first.png")
    out = tmp_path / "out"
    command = ["t2v", "--prompts-file", str(tmp_path / "films.jsonl"), "--model", "tiny-wan", "--output-dir", str(out)]
    assert run(command) == 1  # the two rows that this model can't do are told, the others made
    assert "2 films made, 0 there already, 2 failed" in capsys.readouterr().err
    made = {line["id"]: line for line in lines(out)}
    assert {name: (line["num_frames"], line["fps"], line["seconds"]) for name, line in made.items()} == {
        "a": (9, 8.0, 1.125),
        "b": (9, 16.0, 0.5625),
    }
    failed = {line["id"]: line["error"] for line in map(json.loads, (out / "failures.jsonl").read_text().splitlines())}
    assert "takes no image" in failed["c"]
    assert "expected one of them" in failed["d"]
    with av.open(str(out / "a.mp4")) as container:
        assert (container.streams.video[0].frames, container.streams.video[0].average_rate) == (9, 8)
        assert json.loads(container.metadata["comment"])["prompt"] == "a fox"
    with Image.open(out / "contact_sheet.jpg") as sheet:
        assert sheet.width > 400
    page = (out / "report.html").read_text()
    assert '"f":"a.mp4"' in page
    assert "data:image/webp;base64" in page  # the middle frame, until it plays
    assert "2 films" in page
    assert "Seconds a film" in page
    assert " image" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    run(command)
    assert stamps == {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")}


def test_films_begin_with_the_pictures_of_their_rows(tiny: list[LoadedModel], tmp_path: Path) -> None:
    for number in (1, 2):
        picture(number).save(tmp_path / f"{number}.png")
    rows = [{"id": str(number), "prompt": "a cat", "image": f"{number}.png", "seed": 1} for number in (1, 2)]
    rows.append({"id": "none", "prompt": "a cat"})
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["t2v", "--prompts-file", str(tmp_path / "films.jsonl"), "--model", "tiny-i2v", "--no-html"]
    assert run([*command, "--output-dir", str(tmp_path / "out")]) == 1
    assert [line["num_frames"] for line in lines(tmp_path / "out")] == [5, 5]
    [failed] = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (failed["id"], "begins a film with a picture" in failed["error"]) == ("none", True)
    with_other = [(tmp_path / "out" / f"{number}.mp4").read_bytes() for number in (1, 2)]
    assert with_other[0] != with_other[1]
    again = ["t2v", "a cat", "--image", str(tmp_path / "1.png"), "--seed", "1", "--model", "tiny-i2v", "--no-html"]
    assert run([*again, "--output-dir", str(tmp_path / "again")]) == 0
    assert len(lines(tmp_path / "again")) == 1


@pytest.mark.parametrize("form", ["webm", "gif", "frames"])
def test_films_in_other_formats_resume_where_their_line_was_lost(
    tiny: list[LoadedModel], tmp_path: Path, form: str
) -> None:
    command = ["t2v", "a fox", "--model", "tiny-wan", "--output-format", form, "-o", str(tmp_path), "--no-html"]
    assert run(command) == 0
    [line] = lines(tmp_path)
    assert (tmp_path / "contact_sheet.jpg").exists()
    (tmp_path / "manifest.jsonl").write_bytes(b"")  # as after a crash between the file and its line
    (tmp_path / "rows.txt").write_text("a fox\n")
    assert run(["t2v", "--prompts-file", str(tmp_path / "rows.txt"), *command[2:]]) == 0
    assert [one["file"] for one in lines(tmp_path)] == [line["file"]]
    (tmp_path / "rows.txt").write_text("another\n")
    assert run(["t2v", "--prompts-file", str(tmp_path / "rows.txt"), *command[2:]]) == 2  # nobody's film is replaced


def test_sounds(tiny: list[LoadedModel], tmp_path: Path) -> None:
    command = ["t2a", "rain", "wind", "--model", "tiny-audio", "--seconds", "1", "--output-format", "flac"]
    assert run([*command, "-o", str(tmp_path)]) == 0
    assert sorted((line["file"], line["seconds"], line["channels"]) for line in lines(tmp_path)) == [
        ("000000.flac", 1.0, 2),
        ("000001.flac", 1.0, 2),
    ]
    assert '"f":"000000.flac"' in (tmp_path / "report.html").read_text()


def test_what_is_no_film_is_refused_with_words(
    tiny: list[LoadedModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["t2v", "a fox", "-o", str(tmp_path)]) == 2
    assert "no built-in model makes films" in capsys.readouterr().err
    assert run(["t2v", "rain", "--model", "tiny-audio", "-o", str(tmp_path), "--no-html"]) == 1
    assert "use interlace t2a" in capsys.readouterr().err
    assert run(["t2v", "a fox", "--model", "tiny-wan", "--output-quality", "3", "-o", str(tmp_path)]) == 2
    assert "one quality" in capsys.readouterr().err
