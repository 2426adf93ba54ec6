"""bulk/sink.py and bulk/png.py: a manifest line stands for a whole file, whatever happened to the run before."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fake_generator import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from interlace.bulk import sink as sink_module
from interlace.bulk.png import JSON_KEY, a1111_text, encode_png
from interlace.bulk.rows import Job
from interlace.bulk.sink import ModelId, Sink, read_manifest, replace_file, request_key
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams

MODEL = ModelId(model="demo")


def make_job(name: str, **sampling: Any) -> Job:
    return Job(row_id=name, index=0, name=name, prompt=f"a {name}", sampling=SamplingParams(**{"seed": 1, **sampling}))


def write(sink: Sink, job: Job) -> None:
    record = {"prompt": job.prompt, "seed": job.sampling.seed, "request_key": request_key(job, MODEL)}
    sink.write(job, picture(job), record, {"total_s": 1.5})


def state(sink: Sink, job: Job) -> str:
    return sink.state(job, request_key(job, MODEL))


def test_a_written_image_is_done_in_the_next_run(tmp_path: Path) -> None:
    a, b = make_job("a"), make_job("b.c")
    with Sink(tmp_path) as sink:
        assert state(sink, a) == "missing"
        write(sink, a)
        write(sink, b)
        assert state(sink, a) == "done"
    with Sink(tmp_path) as sink:
        assert [state(sink, a), state(sink, b), state(sink, make_job("c"))] == ["done", "done", "missing"]


def test_a_manifest_line_says_what_is_in_the_file(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        write(sink, make_job("a", seed=7))
    (line,) = read_manifest(tmp_path)
    data = (tmp_path / "a.png").read_bytes()
    assert line["id"] == "a"
    assert line["index"] == 0
    assert line["file"] == "a.png"
    assert line["sha256"] == hashlib.sha256(data).hexdigest()
    assert line["size_bytes"] == len(data)
    assert line["seed"] == 7
    assert line["timing"] == {"total_s": 1.5}


def test_other_parameters_or_another_model_change_an_image_and_priority_does_not(tmp_path: Path) -> None:
    job = make_job("a")
    with Sink(tmp_path) as sink:
        write(sink, job)
        assert state(sink, make_job("a", height=64)) == "changed"
        assert state(sink, make_job("a", seed=2)) == "changed"
        assert state(sink, make_job("a", priority=5, timeout_s=9)) == "done"
        assert sink.state(job, request_key(job, ModelId(model="other"))) == "changed"
        assert sink.state(job, request_key(job, ModelId(model="demo", torch_dtype="float16"))) == "changed"


@pytest.mark.parametrize("damage", ["missing", "short", "torn line", "no line", "wrong line"])
def test_what_is_not_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    good, bad = make_job("good"), make_job("bad")
    with Sink(tmp_path) as sink:
        write(sink, good)
        write(sink, bad)
    file, manifest = tmp_path / "bad.png", tmp_path / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    if damage == "missing":
        file.unlink()
    elif damage == "short":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        replacement = {"torn line": lines[1][: len(lines[1]) // 2], "no line": b"", "wrong line": b'{"file": 3}\n'}
        manifest.write_bytes(lines[0] + replacement[damage])
    with Sink(tmp_path) as sink:
        assert [state(sink, good), state(sink, bad)] == ["done", "missing"]
        write(sink, bad)
    assert [record["id"] for record in read_manifest(tmp_path)] == ["good", "bad"]


@given(cut=st.integers(0, 2000), junk=st.binary(max_size=20))
def test_any_cut_through_the_manifest_leaves_whole_lines_only(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("sink")
    jobs = [make_job(name) for name in "abc"]
    with Sink(folder) as sink:
        for job in jobs:
            write(sink, job)
    manifest = folder / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:cut] + junk)
    with Sink(folder) as sink:
        for job in jobs:
            if state(sink, job) != "done":
                write(sink, job)
    assert sorted(record["id"] for record in read_manifest(folder)) == ["a", "b", "c"]
    assert manifest.read_bytes().count(b"\n") == 3


def test_a_remade_image_has_one_line_in_the_end(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        write(sink, make_job("a", seed=1))
    with Sink(tmp_path) as sink:
        write(sink, make_job("a", seed=2))
    assert [record["seed"] for record in read_manifest(tmp_path)] == [2]


def test_leftover_temporary_files_are_removed_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a.png").write_bytes(b"half")
    (tmp_path / "mine.png").write_bytes(b"x")
    with Sink(tmp_path):
        assert not list(tmp_path.glob(".tmp-*"))
        assert (tmp_path / "mine.png").exists()


def test_overwrite_trusts_nothing(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        write(sink, make_job("a"))
    with Sink(tmp_path, overwrite=True) as sink:
        assert state(sink, make_job("a")) == "missing"


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Sink(tmp_path), pytest.raises(InvalidRequestError, match="another run"):
        Sink(tmp_path)
    Sink(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidRequestError, match="can't write"):
        Sink(tmp_path / "file" / "out")


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    replace_file(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink_module.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_failures_are_listed_anew_in_each_run(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        sink.fail(make_job("a"), "no luck", "RequestError")
    lines = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    expected = {"id": "a", "index": 0, "file": "a.png", "prompt": "a a", "error": "no luck", "type": "RequestError"}
    assert lines == [expected]
    with Sink(tmp_path):
        pass
    assert (tmp_path / "failures.jsonl").read_text() == ""


def test_a_png_says_how_it_was_made_and_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    record = {
        "prompt": "ein Kreis, 圆",
        "negative_prompt": "grey",
        "seed": 3,
        "width": 16,
        "height": 8,
        "model": "demo",
    }
    record |= {"num_inference_steps": 4, "guidance_scale": 3.5}
    data = encode_png(picture(make_job("a")), record)
    assert data == encode_png(picture(make_job("a")), record)
    (tmp_path / "a.png").write_bytes(data)
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.text[JSON_KEY]) == record  # type: ignore[attr-defined]
        assert image.convert("RGB").tobytes() == picture(make_job("a")).tobytes()
        words = image.text["parameters"]  # type: ignore[attr-defined]
    facts = "Steps: 4, CFG scale: 3.5, Seed: 3, Size: 16x8, Model: demo"
    assert words == f"ein Kreis, 圆\nNegative prompt: grey\n{facts}"


def test_a1111_words_tell_both_kinds_of_guidance() -> None:
    words = a1111_text({"prompt": "a", "true_cfg_scale": 4.0, "guidance_scale": 1.0})
    assert "CFG scale: 4.0, Distilled CFG Scale: 1.0" in words
