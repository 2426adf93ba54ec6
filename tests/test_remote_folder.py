"""Output in an object store: the manifest there is the truth, whatever becomes of the command and of its machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fake_generator import FakeGenerator

from interlace.bulk.output.remote import folder as remote
from interlace.bulk.output.remote.folder import RemoteFolder, remote_url
from interlace.cli import session
from interlace.cli.main import run as command
from interlace.errors import InvalidRequestError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An object store in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    monkeypatch.setattr(session, "open_generator", lambda *flags: FakeGenerator())
    return files


def rows_file(folder: Path, prompts: list[str]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


def run(*words: str) -> int:
    return command(["t2i", *words])


def names(store: Any) -> list[str]:
    return sorted(path.rsplit("/", 1)[-1] for path in store.find("/run"))


def manifest(store: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.cat_file("/run/manifest.jsonl").splitlines()]


def test_a_run_leaves_in_the_store_what_it_leaves_in_a_folder(store: Any, tmp_path: Path) -> None:
    rows = rows_file(tmp_path, ["a", "b", "c"])
    assert run("--prompts-file", rows, "--output-dir", "memory://run") == 0
    assert run("--prompts-file", rows, "--output-dir", str(tmp_path / "local")) == 0
    local = sorted(path.name for path in (tmp_path / "local").iterdir() if not path.name.startswith("."))
    assert names(store) == local
    for line in manifest(store):
        data = store.cat_file(f"/run/{line['file']}")
        assert data == (tmp_path / "local" / line["file"]).read_bytes()


def test_what_is_whole_stays_and_what_is_missing_short_or_changed_is_made(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--prompts-file", rows_file(tmp_path, ["a", "b", "c", "d"]), "--output-dir", "memory://run")
    store.rm_file("/run/000000.png")
    store.pipe_file("/run/000001.png", store.cat_file("/run/000001.png")[:-1])
    capsys.readouterr()
    rows = rows_file(tmp_path, ["a", "b", "c", "changed"])
    run("--prompts-file", rows, "--output-dir", "memory://run", "--overwrite", "--dry-run")
    assert run("--prompts-file", rows, "--output-dir", "memory://run") == 2  # it would replace another prompt's
    assert run("--prompts-file", rows, "--output-dir", "memory://run", "--rows", "0:3") == 0
    assert "2 images made, 1 there already" in capsys.readouterr().err
    assert sorted(line["file"] for line in manifest(store)) == [f"{i:06d}.png" for i in range(4)]


def test_a_command_that_is_killed_has_told_what_it_stored(store: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Segments without a manifest, and an image that no segment tells of: as a kill leaves them."""
    monkeypatch.setattr(remote, "_SEGMENT_LINES", 2)
    run("--prompts-file", rows_file(tmp_path, ["a", "b", "c"]), "--output-dir", "memory://run")
    lines = [json.dumps(line).encode() + b"\n" for line in sorted(manifest(store), key=lambda line: line["file"])]
    for name in names(store):
        if not name.endswith(".png"):
            store.rm_file(f"/run/{name}")
    store.pipe_file("/run/manifest-000001.jsonl", lines[0])
    store.pipe_file("/run/manifest-000002.jsonl", lines[1] + lines[2][:-9])
    with RemoteFolder("memory://run") as place:
        assert sorted(path.name for path in place.local.glob("*.png")) == ["000000.png", "000001.png"]
    assert run("--prompts-file", str(tmp_path / "rows.jsonl"), "--output-dir", "memory://run") == 0
    assert sorted(line["file"] for line in manifest(store)) == [f"{i:06d}.png" for i in range(3)]
    assert not [name for name in names(store) if name.startswith("manifest-")]


def test_prompts_add_to_a_store_as_to_a_folder(store: Any) -> None:
    assert run("a red circle", "--output-dir", "memory://run") == 0
    assert run("a red circle", "--output-dir", "memory://run") == 0
    assert [line["id"] for line in manifest(store)] == ["000000", "000001"]
    assert "unfinished.json" not in names(store)


def test_a_store_that_takes_nothing_more_ends_the_run_with_words(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str, data: bytes, **_: Any) -> None:
        raise PermissionError("no quota left")

    monkeypatch.setattr(type(store), "pipe_file", lambda self, path, value, **_: refuse(path, value))
    monkeypatch.setattr(remote, "_ATTEMPTS", 1)
    assert run("--prompts-file", rows_file(tmp_path, ["a", "b"]), "--output-dir", "memory://run") != 0
    assert "no quota left" in capsys.readouterr().err


def test_urls_are_told_from_paths() -> None:
    assert remote_url(Path("s3://bucket/run")) == "s3://bucket/run"
    assert remote_url(Path("memory://run")) == "memory://run"
    assert remote_url(Path("file:///data/run")) == "file:///data/run"
    for path in ("out", "/data/out", "C:/out", "a:b"):
        assert remote_url(Path(path)) is None
    with pytest.raises(InvalidRequestError, match="can't use nowhere://x"):
        RemoteFolder("nowhere://x")


def test_a_killed_process_is_gone_on_with(tmp_path: Path) -> None:
    rows = rows_file(tmp_path, [f"a red circle {i}" for i in range(20)])
    url = f"file://{tmp_path}/run"
    command = [sys.executable, "-m", "interlace", "t2i", "--prompts-file", rows, "--output-dir", url]
    command += ["--size", "64x64", "--num-inference-steps", "4", "--no-html", "--max-num-seqs", "2"]
    killed = {**os.environ, "INTERLACE_FAULT": "line written:12"}  # some of twelve are in the store then
    first = subprocess.run(command, env=killed, stderr=subprocess.DEVNULL, check=False)
    assert first.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "manifest.jsonl").exists()
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    told = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["file"] for line in told) == [f"{i:06d}.png" for i in range(20)]
    assert all((tmp_path / "run" / line["file"]).stat().st_size == line["size_bytes"] for line in told)
