"""docs/bulk-inputs.md: its files and commands work as they stand, on the fake generator."""

import re
import shlex
from pathlib import Path

import pytest
from fake_generator import FakeGenerator

import interlace
from interlace.bulk import generator as generator_module
from interlace.bulk.input.columns import EDIT_COLUMNS
from interlace.bulk.input.formats import suffixes
from interlace.bulk.output.manifest import read_manifest
from interlace.cli.main import run

DOC = (Path(__file__).parent.parent / "docs" / "bulk-inputs.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)


def test_the_commands_work_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interlace, "Omni", lambda model, **options: None, raising=False)
    monkeypatch.setattr(generator_module, "OmniGenerator", lambda omni: FakeGenerator())
    num_commands = 0
    for kind, name, text in BLOCKS:
        if name:
            Path(name).write_text(text)
        elif kind == "sh":
            words = shlex.split(text.replace("\\\n", " "))
            assert run(words[1:]) == 0
            told = capsys.readouterr().out
            num_commands += 1
        else:
            assert text in told
    assert num_commands == 3
    assert {record["id"] for record in read_manifest(Path("out"))} == {"000000", "star", "000002"}
    assert {(record["id"], record["seed"]) for record in read_manifest(Path("scenes"))} == {("s1", 1), ("s3", 3)}


def test_every_column_and_format_is_named() -> None:
    assert not [name for name in [*EDIT_COLUMNS, *suffixes()] if f"`{name}`" not in DOC]
