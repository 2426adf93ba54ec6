"""cli/help/names.py, suggest.py, help.py, words.py, config.py: the names that people type, and what they are told."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_generator import FakeGenerator
from PIL import Image

import interlace
from interlace.bulk import generator as generator_module
from interlace.bulk.output.sink import read_manifest
from interlace.cli.config import config as config_command
from interlace.cli.help.names import OTHER_NAMES, names_of, translate
from interlace.cli.help.page import MATTER
from interlace.cli.help.suggest import _COMMANDS, _MEANINGS
from interlace.cli.main import app, run
from interlace.demo.notes import notes
from interlace.errors import ModelLoadError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a command asks `Omni` for; the pictures come from a `FakeGenerator`."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(interlace, "Omni", lambda model, **options: found.update(model=model, **options), raising=False)
    monkeypatch.setattr(generator_module, "OmniGenerator", lambda omni, edit=None: FakeGenerator())
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    return list(read_manifest(folder))


@pytest.mark.parametrize("name", sorted(OTHER_NAMES))
def test_every_other_name_stands_for_a_flag_of_some_command(name: str) -> None:
    known = {flag for command in ("t2i", "serve") for flag in names_of(app, [command])}
    assert OTHER_NAMES[name] in known
    assert name not in known or name in ("model", "m")


def test_a_flag_says_the_same_in_every_command() -> None:
    told: dict[str, set[str]] = {}
    for command in ("t2i", "edit", "serve"):
        for argument in app[command].assemble_argument_collection(parse_docstring=True):
            if argument.name.startswith("--") and not argument.children and argument.parameter.parse is not False:
                told.setdefault(argument.name, set()).add(str(argument.parameter.help))
    others = {"--prompt"}  # instructions, of an edit
    others |= {"--api-key", "--api-key-file", "--num-gpus"}  # a service's and one's own; processes and replicas
    assert {name for name, helps in told.items() if len(helps) > 1} == others
    assert not {name for name, helps in told.items() if helps & {"None", ""}}


def test_the_names_that_people_type(asked: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "here"
    flags = ["--model", "demo", "--steps=3", "--size", "96x64", "-n", "2", "-o", str(out), "--dtype", "float32"]
    assert run(["t2i", "a red circle", "a blue star", *flags, "--negative", "green"]) == 0
    assert (asked["model"], asked["dtype"]) == ("demo", "float32")
    found = lines(out)
    assert {(line["prompt"], line["index"]) for line in found} == {
        (prompt, index) for prompt in ("a red circle", "a blue star") for index in (0, 1)
    }
    assert {line["negative_prompt"] for line in found} == {"green"}


@pytest.mark.parametrize(
    ("given", "sides"),
    [
        (["--size", "96x64"], ["--width=96", "--height=64"]),
        (["--size=512"], ["--width=512", "--height=512"]),
        (["--size", "96 × 64"], ["--width=96", "--height=64"]),
    ],
)
def test_a_size_is_both_sides(given: list[str], sides: list[str]) -> None:
    assert translate(app, ["t2i", *given, "--", "--size", "x"]) == ["t2i", *sides, "--", "--size", "x"]


def test_a_commands_own_name_is_left_alone() -> None:
    assert translate(app, ["bench", "stages", "--size", "64"]) == ["bench", "stages", "--size", "64"]
    assert translate(app, ["bench", "throughput", "--dtype", "float32"])[2] == "--torch-dtype"


def test_other_names_count_in_files_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("model: demo\nt2i: {size: 96x64, out: here, steps: 5}\n")
    monkeypatch.setenv("INTERLACE_STEPS", "7")
    monkeypatch.setenv("INTERLACE_SEED", "9")
    assert run(["config", "t2i", "--config", str(file)]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown) == {
        "t2i": {
            "model_name": "demo",
            "output_dir": "here",
            "height": 64,
            "width": 96,
            "num_inference_steps": 7,
            "seed": 9,
        }
    }
    assert "num_inference_steps: 7  # INTERLACE_STEPS" in shown
    assert f"width: 96  # {file}" in shown
    assert "seed: 9  # environment, INTERLACE_SEED" in shown


def test_a_dump_names_every_setting_and_is_a_file_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "--dump"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown) == {"t2i": None, "edit": None, "serve": None}
    assert "# max_num_seqs: 16  # default" in shown
    assert run(["config", "nothing"]) == 2
    (tmp_path / "wrong.yaml").write_text("serve: {max_queued: 3}")
    assert run(["config", "serve", "--config", str(tmp_path / "wrong.yaml")]) == 2
    assert "wrong.yaml: unknown key 'max_queued'; did you mean max_queued_requests?" in capsys.readouterr().err
    assert config_command.__doc__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["t2i", "x", "--cfg", "3"], "unknown option --cfg: here that is --guidance-scale"),
        (["t2i", "x", "--num_samples=3"], "here that is --num-images"),
        (["t2i", "x", "--gpus", "2"], "here that is --num-gpus"),
        (["t2i", "x", "--fp16"], "here that is --dtype float16"),
        (["t2i", "x", "--resolution", "64"], "here that is --size"),
        (["t2i", "x", "--resume"], "run the same command again"),
        (["t2i", "x", "--hight", "3"], "did you mean --height"),
        (["t2i", "x", "--stpes", "3"], "did you mean --steps"),
        (["t2i", "x", "--xyzzy", "3"], "`--help-all` shows every flag"),
        (["version"], "here that is `interlace --version`"),
        (["edit", "tests/test_names.py"], 'interlace edit tests/test_names.py "make it blue"'),
        (["generate"], "here that is `interlace t2i`"),
        (["img2img", "x.png"], "here that is `interlace edit`"),
        (["a red circle"], 'interlace t2i "a red circle"'),
        (["t2i", "x", "--size", "12by5"], "WIDTHxHEIGHT"),
        (["t2i", "x", "--prompts-file", "p.txt"], "not both"),
        (["edit", "nothere.png", "make it blue"], "there is no picture 'nothere.png'"),
    ],
)
def test_what_was_meant_comes_before_what_is_spelt_alike(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert words in capsys.readouterr().err


def test_every_meaning_is_a_flag_that_there_is() -> None:
    known = {flag for command in ("t2i", "edit", "serve") for flag in names_of(app, [command])} | {*OTHER_NAMES, "size"}
    flags = {meant.partition(" ")[0].lstrip("-").replace("-", "_") for meant in _MEANINGS.values() if meant[0] == "-"}
    assert flags - known <= {"lora", "quantize"}
    assert set(_COMMANDS.values()) <= set(app)


@pytest.mark.parametrize("command", ["t2i", "edit"])
def test_a_command_alone_explains_itself_in_three_lines(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert f"interlace {command}" in said[1]


@pytest.mark.parametrize("command", sorted(MATTER))
def test_help_shows_what_matters_and_help_all_everything(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert {name.replace("-", "_") for name in MATTER[command]} <= names_of(app, [command])
    assert run([command, "--help"]) == 0
    brief = capsys.readouterr().out
    assert run([command, "--help-all"]) == 0
    whole = capsys.readouterr().out
    assert "--verify-fusion" not in brief
    assert "--verify-fusion" in whole
    assert "--empty-" not in whole
    assert "--max-num-seqs" in brief
    assert brief.rstrip().splitlines()[-1].strip() != ""
    assert f"interlace {command}" in brief[brief.index("--help-all") :]
    assert len(brief.splitlines()) < 80 < len(whole.splitlines())


def test_a_file_in_the_prompts_place_is_read(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\nb\n")
    assert run(["t2i", str(tmp_path / "p.txt"), "-o", str(tmp_path / "out")]) == 0
    assert sorted(line["prompt"] for line in lines(tmp_path / "out")) == ["a", "b"]


@pytest.mark.parametrize("name", ["x.xlsx", "prompts.md", "my prompts.docx", "./list", "folder", "."])
def test_what_is_not_read_is_not_drawn_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder", "rows.json").write_text('["a"]')
    if name not in ("folder", "."):
        Path(name).write_text("a\n")
    assert run(["t2i", name, "-o", "out"]) == 2
    said = capsys.readouterr().err
    assert f"as a prompt: interlace t2i --prompt {shlex.quote(name)}" in said
    if name in ("folder", "."):
        assert f"{name} is a folder; as the input: interlace t2i --prompts-file {name}" in said
    else:
        assert f"{name} is a file of a kind that is not read; expected one of .csv, .json, .jsonl" in said
    assert not Path("out").exists()


def test_a_word_that_is_a_file_by_chance_is_drawn_and_said(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cat").write_text("a\n")
    Path("x.xlsx").write_text("a\n")
    assert run(["t2i", "cat", "-o", "out"]) == 0
    assert "cat is taken as a prompt; the file of that name is not read" in capsys.readouterr().err
    assert run(["t2i", "--prompt", "x.xlsx", "-o", "out"]) == 0
    assert "x.xlsx is" not in capsys.readouterr().err
    assert [line["prompt"] for line in lines(Path("out"))] == ["cat", "x.xlsx"]


def test_a_table_with_a_space_in_its_name_is_read(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my prompts.txt").write_text("a\nb\n")
    assert run(["t2i", "my prompts.txt", "-o", "out"]) == 0
    assert sorted(line["prompt"] for line in lines(Path("out"))) == ["a", "b"]


def test_words_that_were_not_put_in_quotes_are_noted(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["t2i", "a", "red", "circle", "-o", str(tmp_path)]) == 0
    assert 'as one prompt: interlace t2i "a red circle"' in capsys.readouterr().err


def test_a_picture_and_an_instruction_are_an_edit_and_demo_edits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "interlace.cli.session.generate", lambda rows, flags, engine: seen.update(rows=list(rows), flags=flags) or 0
    )
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert run(["edit", str(tmp_path / "a.png"), "make it blue", "--model", "demo"]) == 0
    assert seen["flags"].model.model_name == "demo-edit"
    assert [row.prompt for row in seen["rows"]] == ["make it blue"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["t2i", "a", "-o", ""], "--output-dir"),
        (["t2i", "a", "--output-dir="], "--output-dir"),
        (["t2i", "a", "--model", " "], "--model-name"),
        (["edit", "a", "--images-dir", ""], "--images-dir"),
        (["serve", ""], "a name on the command line"),
        (["info", "--model="], "--model"),
        (["t2i", "a", "--config", ""], "--config"),
    ],
)
def test_a_variable_that_was_never_set_is_no_place(
    command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command) == 2
    assert f"error: {name} is empty; give it a " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nor_is_one_of_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("INTERLACE_OUTPUT_DIR", "")
    assert run(["t2i", "a"]) == 2
    assert "INTERLACE_OUTPUT_DIR is empty" in capsys.readouterr().err
    with pytest.raises(ModelLoadError, match="name is empty"):
        interlace.Omni(model="")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_something_to_complete_with(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "prompts-file" in capsys.readouterr().out


def test_nothing_heavy_is_loaded_for_help() -> None:
    import subprocess

    code = "import sys; from interlace.cli.main import run; run(['t2i', '--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_built_in_model_says_what_it_does_not_know() -> None:
    assert notes(["a red circle", "a big heart on a white background"], None, 128) == []
    (shapes,) = notes(["a cat"], None, None)
    assert "'a cat' becomes the nearest" in shapes
    assert notes(["a star"], 160, 112) == []
    (size,) = notes(["a star"], 160, 96)
    assert "112 to 192 pixels" in size
