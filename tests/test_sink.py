"""bulk/sink.py and bulk/encoding.py: a manifest line stands for a whole file, whatever happened to the run before."""

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_generator import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from interlace.bulk.input.rows import BadRow, Job
from interlace.bulk.output import disk
from interlace.bulk.output.sink import ModelId, Sink, SinkOptions, read_manifest, request_key
from interlace.bulk.output.stores import is_stored, read_stored
from interlace.errors import InvalidRequestError, StorageError
from interlace.media.encode import Encoding, read_parameters
from interlace.media.formats.pictures import JSON_KEY, a1111_text
from interlace.request import SamplingParams

MODEL = ModelId(model="demo")


def make_job(name: str, **sampling: Any) -> Job:
    return Job(
        row_id=name,
        index=0,
        name=name,
        prompt=f"a {name}",
        where="p.jsonl:1",
        sampling=SamplingParams(**{"seed": 1, **sampling}),
    )


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


@settings(max_examples=40)
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
    with pytest.raises(InvalidRequestError, match="is a file; the output needs a folder"):
        Sink(tmp_path / "file" / "out")


def failures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def test_a_failure_is_listed_until_its_image_is_made(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        sink.fail(make_job("a"), "no luck", "RequestError", 3)
        sink.fail(make_job("b"), "no luck", "RequestError")
        sink.fail(BadRow(where="p.jsonl:3", error="the prompt is empty", id="c"), "the prompt is empty", "Invalid")
    job = {"id": "a", "index": 0, "name": "a", "where": "p.jsonl:1", "prompt": "a a"}
    assert failures(tmp_path)[0] == {**job, "error": "no luck", "type": "RequestError", "attempts": 3}
    with Sink(tmp_path) as sink:
        write(sink, make_job("a"))
        sink.fail(make_job("b"), "again", "RequestError")
    assert [(line["id"], line["error"]) for line in failures(tmp_path)] == [
        ("b", "again"),
        ("c", "the prompt is empty"),
    ]
    with Sink(tmp_path) as sink:
        sink.fail(make_job("d"), "no luck", "RequestError")
        sink.forget_earlier_failures()
    assert [line["id"] for line in failures(tmp_path)] == ["d"]
    Sink(tmp_path, overwrite=True).close()
    assert failures(tmp_path) == []


def test_failures_survive_a_kill_and_a_torn_line(tmp_path: Path) -> None:
    sink = Sink(tmp_path)
    sink.fail(make_job("a"), "no luck", "RequestError")
    with (tmp_path / "failures.jsonl").open("a") as file:
        file.write('{"name": "b", "err')
    sink._let_go()  # as the end of the process would
    with Sink(tmp_path) as sink:
        sink.fail(make_job("c"), "no luck", "RequestError")
    assert [line["id"] for line in failures(tmp_path)] == ["a", "c"]


RECORD: dict[str, Any] = {
    "prompt": "ein Kreis, 圆 <script>",
    "negative_prompt": "grey",
    "seed": 3,
    "width": 16,
    "height": 8,
    "model": "demo",
    "num_inference_steps": 4,
    "guidance_scale": 3.5,
}
WORDS = "ein Kreis, 圆 <script>\nNegative prompt: grey\nSteps: 4, CFG scale: 3.5, Seed: 3, Size: 16x8, Model: demo"
ENCODINGS = [Encoding("png"), Encoding("jpeg"), Encoding("jpeg", 40), Encoding("webp"), Encoding("webp", 100)]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.label)
def test_an_image_says_how_it_was_made_and_equal_input_gives_equal_bytes(tmp_path: Path, encoding: Encoding) -> None:
    data = encoding.encode(picture(make_job("a")), RECORD)
    assert data == encoding.encode(picture(make_job("a")), RECORD)
    path = tmp_path / f"a.{encoding.extension}"
    path.write_bytes(data)
    assert read_parameters(path) == RECORD
    with Image.open(path) as image:
        assert image.format == encoding.name.upper()
        shown, wanted = image.convert("RGB").getpixel((8, 4)), picture(make_job("a")).getpixel((8, 4))
        assert isinstance(shown, tuple)
        assert isinstance(wanted, tuple)
        assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) <= (0 if encoding.name == "png" else 12)


def test_other_tools_find_their_words_in_every_format(tmp_path: Path) -> None:
    for encoding in ENCODINGS:
        (tmp_path / "a").write_bytes(encoding.encode(picture(make_job("a")), RECORD))
        with Image.open(tmp_path / "a") as image:
            if encoding.name == "png":
                assert image.info["parameters"] == WORDS
                assert json.loads(image.info[JSON_KEY]) == RECORD
            else:  # as piexif and AUTOMATIC1111 read it
                comment = image.getexif().get_ifd(0x8769)[0x9286]
                assert comment[:8] == b"UNICODE\0"
                assert comment[8:].decode("utf-16-be") == WORDS


def test_a_prompt_that_is_too_long_for_a_jpeg_is_left_out_there_and_the_rest_is_not(tmp_path: Path) -> None:
    for length, kept in ((10, True), (24_000, True), (200_000, False)):
        record = {**RECORD, "prompt": "x" * length}
        (tmp_path / "a.jpg").write_bytes(Encoding("jpeg").encode(picture(make_job("a")), record))
        found = read_parameters(tmp_path / "a.jpg")
        assert found["seed"] == 3
        assert found.get("prompt") == (record["prompt"] if kept else None)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1"])
@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_pictures_of_any_mode_are_stored(name: Any, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
    with Image.open(io.BytesIO(Encoding(name).encode(image, RECORD))) as stored:
        stored.load()
        if name == "jpeg" and mode == "RGBA":
            assert min(stored.getpixel((1, 1))) > 250  # type: ignore[arg-type, type-var]  # white shows through


def test_an_image_that_says_nothing_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    for name, words in (("a.png", "does not say"), ("b.png", "can't read"), ("c.png", "can't read")):
        with pytest.raises(InvalidRequestError, match=words):
            read_parameters(tmp_path / name)


@pytest.mark.parametrize(("name", "quality"), [("png", 90), ("jpeg", 0), ("webp", 101), ("gif", None)])
def test_an_unknown_format_or_quality_is_refused(name: Any, quality: int | None) -> None:
    with pytest.raises(InvalidRequestError, match=r"quality|expected one of png, jpeg, webp"):
        Encoding(name, quality)


def test_a1111_words_tell_both_kinds_of_guidance() -> None:
    words = a1111_text({"prompt": "a", "true_cfg_scale": 4.0, "guidance_scale": 1.0})
    assert "CFG scale: 4.0, Distilled CFG Scale: 1.0" in words


LAYOUTS: list[Any] = ["files", "webdataset"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_in_any_layout_goes_on_where_it_stopped(tmp_path: Path, layout: Any) -> None:
    options = SinkOptions(encoding=Encoding("jpeg"), layout=layout, shard_size=2)
    jobs = [make_job(name) for name in ("a", "b.c", "d", "e", "f")]
    with Sink(tmp_path, options=options) as sink:
        for job in jobs[:3]:
            write(sink, job)
    with Sink(tmp_path, options=options) as sink:
        assert [state(sink, job) for job in jobs] == ["done"] * 3 + ["missing"] * 2
        for job in jobs[3:]:
            write(sink, job)
    records = list(read_manifest(tmp_path))
    assert [record["id"] for record in records] == ["a", "b.c", "d", "e", "f"]
    for job, record in zip(jobs, records, strict=True):
        assert read_parameters(io.BytesIO(read_stored(tmp_path, record)))["prompt"] == job.prompt
    assert len(list(tmp_path.glob("*.tar"))) == (3 if layout == "webdataset" else 0)


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_what_is_made_again_is_there_once(tmp_path: Path, before: Any, after: Any) -> None:
    with Sink(tmp_path, options=SinkOptions(layout=before, shard_size=2)) as sink:
        for name in "abc":
            write(sink, make_job(name))
    options = SinkOptions(encoding=Encoding("webp"), layout=after, shard_size=2)
    with Sink(tmp_path, options=options) as sink:
        assert [state(sink, make_job(name)) for name in "abc"] == ["changed"] * 3
        for name in "ab":
            write(sink, make_job(name))
    records = list(read_manifest(tmp_path))
    assert sorted(record["file"] for record in records) == ["a.webp", "b.webp", "c.png"]
    assert all(is_stored(tmp_path, record) for record in records)
    there = [path.name for path in tmp_path.iterdir()]
    for shard in tmp_path.glob("*.tar"):
        with tarfile.open(shard) as tar:
            there += tar.getnames()
    pictures = [name for name in there if name.endswith((".png", ".webp"))]
    assert sorted(pictures) == ["a.webp", "b.webp", "c.png"]
    with Sink(tmp_path, options=options) as sink:
        assert [state(sink, make_job(name)) for name in "abc"] == ["done", "done", "changed"]


def test_another_quality_is_another_image(tmp_path: Path) -> None:
    with Sink(tmp_path, options=SinkOptions(encoding=Encoding("jpeg", 80))) as sink:
        write(sink, make_job("a"))
    with Sink(tmp_path, options=SinkOptions(encoding=Encoding("jpeg", 81))) as sink:
        assert state(sink, make_job("a")) == "changed"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verifying_finds_a_flipped_byte_that_a_size_does_not_tell(tmp_path: Path, layout: Any) -> None:
    jobs = [make_job(name) for name in "abc"]
    with Sink(tmp_path, options=SinkOptions(layout=layout)) as sink:
        for job in jobs:
            write(sink, job)
    record = list(read_manifest(tmp_path))[1]
    path = tmp_path / record.get("shard", record["file"])
    data = bytearray(path.read_bytes())
    data[record.get("offset", 0) + 40] ^= 1
    path.write_bytes(data)
    with Sink(tmp_path, options=SinkOptions(layout=layout)) as sink:
        assert [state(sink, job) for job in jobs] == ["done"] * 3
    with Sink(tmp_path, options=SinkOptions(layout=layout, verify=True)) as sink:
        assert [state(sink, job) for job in jobs] == ["done", "missing", "done"]
        write(sink, jobs[1])
    with Sink(tmp_path, options=SinkOptions(layout=layout, verify=True)) as sink:
        assert [state(sink, job) for job in jobs] == ["done"] * 3
        assert sink.num_distrusted == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_the_disk_is_full_nothing_is_half_written_and_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any
) -> None:
    jobs = [make_job(name) for name in "abc"]
    options = SinkOptions(layout=layout)
    with Sink(tmp_path, options=options) as sink:
        write(sink, jobs[0])
        for limit in range(4):  # the disk takes so many writes more
            with monkeypatch.context() as patch:
                patch.setattr(disk.os, "fsync", full_after(limit))
                for job in jobs[1:]:
                    with contextlib.suppress(OSError):
                        write(sink, job)
    with Sink(tmp_path, options=options) as sink:
        for job in jobs:
            if state(sink, job) != "done":
                write(sink, job)
    with Sink(tmp_path, options=replace(options, verify=True)) as sink:
        assert [state(sink, job) for job in jobs] == ["done"] * 3
    assert (tmp_path / "manifest.jsonl").read_bytes().count(b"\n") == 3


def full_after(count: int) -> Callable[[int], None]:
    left = [count]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    return fsync


def test_a_folder_on_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.os, "fsync", full_after(0))
    with pytest.raises(StorageError, match=r"the disk is full.*make room and run the same command again"):
        Sink(tmp_path)
    monkeypatch.undo()
    Sink(tmp_path).close()  # nobody holds it


@pytest.mark.parametrize(("field", "value"), [("layout", "zip"), ("shard_size", 0)])
def test_unknown_options_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="expected"):
        SinkOptions(**{field: value})
