"""bulk/additions.py, matching.py, replaced.py: nobody's pictures are overwritten, whatever is run into a folder."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_generator import BROKEN, FakeGenerator
from PIL import Image

import interlace
import interlace.errors
from interlace.bulk import generator as generator_module
from interlace.bulk.output.sink import read_manifest
from interlace.cli.main import run

Command = Callable[..., int]


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """The errors of images by name; pictures come from a `FakeGenerator`."""
    asked: dict[str, Exception] = {}
    monkeypatch.setattr(interlace, "Omni", lambda model, **options: None, raising=False)
    monkeypatch.setattr(generator_module, "OmniGenerator", lambda omni, edit=None: FakeGenerator(faults=asked))
    return asked


@pytest.fixture
def t2i(faults: dict[str, Exception], tmp_path: Path) -> Command:
    return lambda *flags: run(["t2i", "--output-dir", str(tmp_path / "out"), *map(str, flags)])


def pictures(folder: Path) -> dict[str, str]:
    """The bytes of every picture, by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("0*.png"))}


def told(folder: Path) -> dict[str, str]:
    return {record["id"]: record["prompt"] for record in read_manifest(folder)}


def test_prompts_add_to_a_folder_and_the_same_one_is_another_variation(
    t2i: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert t2i("--prompt", "a red circle", "a blue star") == 0
    before = pictures(out)
    assert t2i("--prompt", "a heart", "a red circle") == 0
    assert told(out) == {
        "000000": "a red circle",
        "000001": "a blue star",
        "000002": "a heart",
        "000003": "a red circle",
    }
    assert before.items() <= pictures(out).items()
    seeds = {record["id"]: record["seed"] for record in read_manifest(out)}
    assert seeds["000003"] != seeds["000000"]
    said = capfd.readouterr().err
    assert '"a red circle" is there as 000000; 000003 is another variation' in said
    assert said.splitlines()[-1] == f"see {out / 'contact_sheet.jpg'} (also report.html)"


def test_a_command_that_was_cut_off_goes_on_with_its_own_numbers(
    t2i: Command, faults: dict[str, Exception], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert t2i("--prompt", "first") == 0
    faults["000002"] = BROKEN
    assert t2i("--prompt", "a", "b", "c") == 1
    assert t2i("--prompt", "other") == 0
    faults.clear()
    assert t2i("--prompt", "a", "b", "c") == 0
    assert told(out) == {"000000": "first", "000001": "a", "000002": "b", "000003": "c", "000004": "other"}
    assert not (out / "unfinished.json").exists()


def test_a_command_that_could_not_begin_takes_no_numbers(
    t2i: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(interlace, "Omni", _cannot_load)
        assert t2i("--prompt", "a") == 2
    assert t2i("--prompt", "") == 2
    assert t2i("--prompt", "b") == 0
    assert told(tmp_path / "out") == {"000000": "b"}


def test_a_failure_and_commands_that_could_not_begin_leave_no_gap(
    t2i: Command, faults: dict[str, Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults["000001"] = ValueError("no")
    assert t2i("--prompt", "a") == 0
    assert t2i("--prompt", "b") == 1
    for model in ("one", "another"):
        with monkeypatch.context() as patch:
            patch.setattr(interlace, "Omni", _cannot_load)
            assert t2i("--prompt", "c", "--model", model) == 2
    assert t2i("--prompt", "d") == 0
    assert told(tmp_path / "out") == {"000000": "a", "000002": "d"}


def _cannot_load(model: str, **options: object) -> None:
    raise interlace.errors.ModelLoadError(f"cannot load model {model!r}")


def test_files_that_no_run_has_written_are_left_alone(t2i: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Image.new("RGB", (8, 8), "red").save(out / "000000.png")
    mine = pictures(out)
    assert t2i("--prompt", "a") == 0
    assert mine.items() <= pictures(out).items()
    assert told(out) == {"000001": "a"}
    file = tmp_path / "prompts.txt"
    file.write_text("b\n")
    assert t2i("--prompts-file", file) == 2
    assert mine.items() <= pictures(out).items()


def test_a_row_before_the_others_replaces_nothing(
    t2i: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt {number}\n" for number in range(20)))
    assert t2i("--prompts-file", file) == 0
    before = pictures(out)
    file.write_text("a new one\n" + file.read_text())
    capfd.readouterr()
    assert t2i("--prompts-file", file) == 2
    assert pictures(out) == before
    said = capfd.readouterr().err
    assert "20 of 21 images would replace pictures of other prompts; nothing was drawn" in said
    assert f'000000: "prompt 0" is there; {file}:1 says "a new one"' in said
    assert "--match content" in said
    assert "--overwrite" in said
    assert t2i("--prompts-file", file, "--dry-run") == 2
    assert t2i("--prompts-file", file, "--num-processes", "1") == 2
    assert t2i("--prompts-file", file, "--overwrite") == 0
    assert told(out)["000000"] == "a new one"


def test_rows_may_be_matched_by_content(t2i: Command, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "prompts.txt"
    file.write_text("same\nother\nsame\n")
    assert t2i("--prompts-file", file) == 0
    before = pictures(out)
    file.write_text("Neu, größer!\nother\nsame\nsame\nsame\n")
    for _ in range(2):
        assert t2i("--prompts-file", file, "--match", "content") == 0
        assert pictures(out) == before
        names = set(told(out)) - {"000000", "000001", "000002"}
        assert len(names) == 2
        assert any(name.startswith("neu-größer-") for name in names)
    assert json.loads((out / "summary.json").read_text())["already_done"] == 5


def test_a_row_whose_parameters_changed_is_made_again(t2i: Command, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a\nb\n")
    assert t2i("--prompts-file", file) == 0
    assert t2i("--prompts-file", file, "--num-inference-steps", 7) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["remade"] == 2


def test_sheet_report_and_summary_show_the_whole_folder(t2i: Command, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "prompts.jsonl"
    assert t2i("--prompt", "a red circle") == 0
    file.write_text('{"id": "x", "prompt": "b"}\n')
    assert t2i("--prompts-file", file) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["images_in_folder"]) == (1, 2)
    assert "a red circle" in (out / "report.html").read_text()


def test_a_run_with_nothing_to_do_keeps_the_last_throughput(t2i: Command, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "prompts.txt"
    file.write_text("a\nb\n")
    assert t2i("--prompts-file", file) == 0
    first = json.loads((out / "summary.json").read_text())
    assert t2i("--prompts-file", file) == 0
    second = json.loads((out / "summary.json").read_text())
    assert second["done"] == 0
    for name in ("throughput", "images_per_s"):
        assert second[name] == first[name] > 0


def test_the_last_line_names_the_picture(t2i: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert t2i("--prompt", "a") == 0
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"see {tmp_path / 'out' / '000000.png'} (also")
