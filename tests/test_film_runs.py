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
    assert failed["d"] == "the row has seconds 1 and num_frames 5, which both say how long it is; leave one of them out"
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


def test_a_row_beats_the_flag_of_the_same_meaning(tiny: list[LoadedModel], tmp_path: Path) -> None:
    """Nine frames, or half a second of 16 a second: what a row says of one, no flag says of the other."""
    rows = [
        {"id": "frames", "prompt": "a fox", "num_frames": 13},
        {"id": "seconds", "prompt": "a fox", "seconds": 0.5},
        {"id": "rate", "prompt": "a fox", "fps": 4},
        {"id": "flag", "prompt": "a fox", "num_frames": None},
    ]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["t2v", str(tmp_path / "films.jsonl"), "--model", "tiny-wan", "--no-html"]
    made = {}
    for flag, value in (("--seconds", "0.3"), ("--num-frames", "17")):
        out = tmp_path / flag.strip("-")
        assert run([*command, flag, value, "--fps", "8", "-o", str(out)]) == 0
        made[flag] = {line["id"]: (line["num_frames"], line["fps"]) for line in lines(out)}
    assert made == {
        "--seconds": {"frames": (13, 8.0), "seconds": (5, 8.0), "rate": (1, 4.0), "flag": (5, 8.0)},
        "--num-frames": {"frames": (13, 8.0), "seconds": (5, 8.0), "rate": (17, 4.0), "flag": (17, 8.0)},
    }


def test_a_row_of_sound_beats_the_flag(tiny: list[LoadedModel], tmp_path: Path) -> None:
    (tmp_path / "sounds.csv").write_text("id,prompt,seconds\na,rain,0.5\nb,wind,\n")
    command = ["t2a", str(tmp_path / "sounds.csv"), "--model", "tiny-audio", "--seconds", "1", "--no-html"]
    assert run([*command, "-o", str(tmp_path / "out")]) == 0
    assert {line["id"]: line["seconds"] for line in lines(tmp_path / "out")} == {"a": 0.5, "b": 1.0}


def test_two_lengths_of_one_film_are_refused_at_the_door(
    tiny: list[LoadedModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "films.csv"
    path.write_text("prompt,seconds,num_frames\na fox,1,\na boat,,9\na cat,2,9\n")
    command = ["t2v", str(path), "--model", "tiny-wan", "-o", str(tmp_path / "out")]
    assert run([*command, "--dry-run"]) == 1
    told = capsys.readouterr().out
    refusal = "the row has seconds 2.0 and num_frames 9, which both say how long it is; leave one of them out"
    assert f"{path}:4: {refusal}\n" in told
    assert "lengths:   1 s (1), 9 frames (1)\n" in told
    assert run([*command, "--strict"]) == 2
    assert run([*command, "--seconds", "1", "--num-frames", "9"]) == 2
    told = capsys.readouterr().err
    assert "--seconds and --num-frames both say how long a film is; leave one of them out" in told
    assert tiny == [], "nothing was loaded"


def test_a_dry_run_tells_lengths_of_films_and_sounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "a", "num_frames": 33, "num_images": 2},
        {"prompt": "b", "seconds": 2, "fps": 12},
        {"prompt": "c", "seconds": 0.25},
        {"prompt": "d"},
    ]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ["-o", str(tmp_path / "out"), "--dry-run"]
    assert run(["t2v", str(tmp_path / "films.jsonl"), "--model", "nobody/films", *out]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "lengths:   33 frames (2), 2 s at 12 fps (1), 0.25 s (1), default (1)" in told
    assert "sizes:     default (5)" in told
    assert run(["t2a", "rain", "wind", "--model", "nobody/sounds", "--seconds", "1.5", *out]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "lengths:   1.5 s (2)" in told
    assert not [line for line in told if line.startswith("sizes:")], "a sound has none"
    assert run(["t2i", "a circle", *out]) == 0
    assert "lengths:" not in capsys.readouterr().out


BOTH = "`interlace t2v` and `interlace t2a`"
PICTURED = "`interlace t2i` and `interlace t2v`"


@pytest.mark.parametrize(
    ("command", "column", "whose"),
    [
        ("t2i", "seconds", BOTH),
        ("t2i", "num_frames", "`interlace t2v`"),
        ("t2i", "fps", "`interlace t2v`"),
        ("edit", "seconds", BOTH),
        ("t2a", "width", PICTURED),
        ("t2a", "height", PICTURED),
        ("t2a", "size", PICTURED),
        ("t2a", "num_frames", "`interlace t2v`"),
    ],
)
def test_columns_of_other_commands_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, column: str, whose: str
) -> None:
    told = f"the column '{column}' is for {whose}; leave it out (or --ignore-unknown-columns)"
    picture(1).save(tmp_path / "a.png")
    row = {"prompt": "a fox", "input_images": "a.png"} if command == "edit" else {"prompt": "a fox"}
    jsonl, csv = tmp_path / "r.jsonl", tmp_path / "r.csv"
    jsonl.write_text(json.dumps({**row, column: 3}) + "\n" + json.dumps(row) + "\n")
    csv.write_text(",".join([*row, column]) + "\n" + ",".join([*row.values(), "3"]) + "\n")
    more = ["-o", str(tmp_path / "out"), "--dry-run", *(["--model", "nobody/sounds"] if command == "t2a" else [])]
    assert run([command, str(jsonl), *more]) == 1
    assert f"{jsonl}:1: {told}\n" in capsys.readouterr().out
    assert run([command, str(csv), *more]) == 2
    assert f"{csv}:1: {told}\n" in capsys.readouterr().err
    assert run([command, str(csv), *more, "--ignore-unknown-columns"]) == 0
    capsys.readouterr()
    assert run([command, str(csv), *more, "--column", f"{column}=other"]) == 2
    assert f"--column {column}=...: the column '{column}' is for {whose}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of tiny models, by what they make; `sana-video` has no more than an index."""
    root = tmp_path_factory.mktemp("kinds")
    for name in ("wan", "stable-audio", "sd3.5"):
        FAMILIES[name].build().save_pretrained(root / name)
    (root / "sana-video").mkdir()
    (root / "sana-video" / "model_index.json").write_text('{"_class_name": "SanaVideoPipeline"}')
    return {name: root / name for name in ("wan", "stable-audio", "sd3.5", "sana-video")}


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("command", "writes", "model", "makes", "other"),
    [
        ("t2v", "films", "sd3.5", "images (StableDiffusion3Pipeline)", "t2i"),
        ("t2v", "films", "stable-audio", "sounds (StableAudioPipeline)", "t2a"),
        ("t2a", "sounds", "sd3.5", "images (StableDiffusion3Pipeline)", "t2i"),
        ("t2a", "sounds", "wan", "films (WanPipeline)", "t2v"),
        ("t2i", "images", "wan", "films (WanPipeline)", "t2v"),
        ("t2i", "images", "stable-audio", "sounds (StableAudioPipeline)", "t2a"),
        ("t2i", "images", "sana-video", "films (SanaVideoPipeline)", "t2v"),
    ],
)
def test_a_model_that_makes_something_else_is_refused_before_it_is_loaded(
    saved: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    writes: str,
    model: str,
    makes: str,
    other: str,
    dry: list[str],
) -> None:
    out = tmp_path / "out"
    assert run([command, "a fox", "--model", str(saved[model]), "-o", str(out), *dry]) == 2
    told = capsys.readouterr()
    wanted = f"error: {saved[model]} makes {makes}; this command writes {writes}: use interlace {other}\n"
    assert (told.err, told.out) == (wanted, "")
    assert not out.exists()


def test_the_right_command_is_not_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "out"), "--dry-run"]
    for command, model in (("t2v", "wan"), ("t2v", "sana-video"), ("t2a", "stable-audio"), ("t2i", "sd3.5")):
        assert run([command, "a fox", "--model", str(saved[model]), *out]) == 0, model


def test_stages_are_known_by_the_last_that_draws(
    saved: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["t2i", "a fox", "--ar-stage", "demo-expand", "--dit-stage", str(saved["wan"])]
    assert run([*words, "-o", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "makes films (WanPipeline); this command writes images: use interlace t2v" in capsys.readouterr().err
