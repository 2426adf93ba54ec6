"""README.md and docs/: every command has flags that there are, code runs as it stands, links lead somewhere."""

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from interlace import __version__
from interlace.bulk.output.sink import read_manifest
from interlace.cli.flags.file import FlagFile, flags_of_commands
from interlace.cli.flags.several import models_as_words
from interlace.cli.help.migrants import FOREIGN
from interlace.cli.help.names import OTHER_NAMES, translate
from interlace.cli.help.page import split_all
from interlace.cli.help.reference import reference
from interlace.cli.main import app, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What needs a network, a server, or half a minute: their flags are checked, they are not run.
_NOT_RUN = ("serve", "bench", "info", "stable-diffusion", "FLUX", "Qwen", "--base-url", "HF_TOKEN", "completion")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `interlace` line on a page."""
    for kind, _, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if kind in ("bash", "sh") else ():
            if not re.match(r"\s*(\w+=\S+ )*interlace ", line):
                continue
            words = shlex.split(line, comments=True)
            words = words[next((i for i, word in enumerate(words) if "=" not in word), 0) :]
            if words[:1] == ["interlace"]:
                yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_has_flags_that_there_are(page: Path) -> None:
    for words in commands(page):
        words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", ">>", "&", "&&")), len(words))]
        tokens, _ = split_all(list(FlagFile.split(_without_config(words))[0]))
        try:
            app.parse_args(models_as_words(translate(app, tokens)))
        except CycloptsError as error:
            raise AssertionError(f"{page.name}: interlace {shlex.join(words)}: {error}") from error


OTHERS = re.compile(
    r"SBATCH|python bench|docker|useradd|pip install|HEALTHCHECK|helm|systemctl|kubectl|ray start|--array|--like"
    r"|--handoff|torchrun|ray get-auth-token"
)


def test_every_flag_that_is_named_anywhere_is_some_commands() -> None:
    known = {*flags_of_commands(app), *OTHER_NAMES, "size", "config", "help", "help_all", "version"}
    known |= {name.lstrip("-").replace("-", "_") for name in FOREIGN}
    named = [*PAGES, *(path for folder in ("deploy", "examples") for path in (ROOT / folder).rglob("*"))]
    for path in named:
        if path.suffix in (".md", ".yaml", ".yml", ".service", ".sbatch", ".sh", "") and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                for flag in [] if OTHERS.search(line) else re.findall(r"(?<![\w-])--([a-z][a-z0-9_-]+)", line):
                    assert flag.replace("-", "_") in known, f"{path.name}: --{flag}"


def _without_config(words: list[str]) -> list[str]:
    """Files that a page only speaks of are not there."""
    at = words.index("--config") if "--config" in words else None
    return words if at is None else [*words[:at], *words[at + 2 :]]


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_works_as_it_stands(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, name, text in blocks(page):
        if name:
            Path(name).write_text(text)
        elif kind == "python" and "openai" not in text:
            Path("block.py").write_text(text)
            runpy.run_path("block.py")
        elif kind == "bash":
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if words[0] == "interlace" and (words[1] == "config" or not any(word in line for word in _NOT_RUN)):
                    assert run(words[1:]) == 0, line + capsys.readouterr().err
    if page.stem == "hobbyist":
        assert Path("output/000000.png").exists()
        assert len(list(read_manifest(Path("shapes")))) == 5
    if page.stem == "datasets":
        assert {record["id"] for record in read_manifest(Path("out"))} == {"dot", "star", "heart"}


@pytest.mark.slow
def test_the_readmes_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, _, text in blocks(ROOT / "README.md"):
        if kind == "python":
            Path("block.py").write_text(text)
            runpy.run_path("block.py")
    assert {path.name for path in tmp_path.glob("*.png")} == {"circle.png", "star.png", "mine.png"}


def test_the_reference_is_not_stale() -> None:
    """`python -m interlace.cli.help.reference docs/cli.md` writes it."""
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_changes_speak_of_this_version() -> None:
    assert f"## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_site_is_built_with_every_link_right(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "tutorials" / "hobbyist" / "index.html").exists()
