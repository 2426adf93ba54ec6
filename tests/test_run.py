"""bulk/run.py: every row ends as an image or a listed failure, and a run that was stopped can be gone on with."""

import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_generator import BROKEN, FakeGenerator
from PIL import Image

from interlace.bulk.input.rows import BadRow, Row, Rows
from interlace.bulk.output import disk
from interlace.bulk.output.failures import failed_rows, is_transient
from interlace.bulk.output.sink import ModelId, Sink, SinkOptions, read_manifest
from interlace.bulk.output.stores import read_stored
from interlace.bulk.plan import RunOptions
from interlace.bulk.report.report import Result
from interlace.bulk.run import run_bulk
from interlace.errors import DeadlineExceededError, EngineDeadError, InvalidRequestError, RequestError
from interlace.request import SamplingParams

PROMPTS = [f"prompt {number}" for number in range(12)]


def bulk(
    folder: Path,
    rows: Iterable[Row | BadRow] | list[str],
    generator: FakeGenerator | Callable[[], FakeGenerator],
    **options: Any,
) -> Result:
    if isinstance(rows, list) and not any(isinstance(row, (Row, BadRow)) for row in rows):
        rows = Rows.from_prompts([str(prompt) for prompt in rows], SamplingParams())
    given = RunOptions(model=ModelId(model="fake"), **{"max_num_seqs": 2, **options})
    with Sink(folder) as sink:
        return run_bulk(rows, sink, given, generator if callable(generator) else lambda: generator)


def first_row_changed() -> list[Row | BadRow]:
    """The rows of `PROMPTS`, the first with other parameters."""
    first, *others = Rows.from_prompts(PROMPTS, SamplingParams())
    assert isinstance(first, Row)
    return [replace(first, sampling=SamplingParams(num_inference_steps=9)), *others]


def never() -> FakeGenerator:
    raise AssertionError("the model was loaded though there is nothing to make")


def names(folder: Path) -> list[str]:
    return sorted(record["file"] for record in read_manifest(folder))


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_every_prompt_becomes_an_image_a_line_and_a_tile(tmp_path: Path) -> None:
    generator = FakeGenerator()
    result = bulk(tmp_path, PROMPTS, generator)
    assert result.exit_status == 0
    assert names(tmp_path) == [f"{number:06d}.png" for number in range(12)]
    assert all((tmp_path / name).is_file() for name in names(tmp_path))
    line = next(iter(read_manifest(tmp_path)))
    expected = {"width": 16, "height": 8, "num_inference_steps": 4, "guidance_scale": 3.5, "model": "fake"}
    assert {key: line[key] for key in expected} == expected
    assert line["timing"]["num_steps"] == 4
    assert summary(tmp_path)["done"] == 12
    with Image.open(tmp_path / "contact_sheet.jpg") as sheet:
        assert sheet.width > 600
    assert generator.closed


def test_the_backlog_stays_short(tmp_path: Path) -> None:
    generator = FakeGenerator()
    bulk(tmp_path, [f"p{number}" for number in range(60)], generator, max_num_seqs=3)
    assert generator.most_at_once <= 6


def test_a_second_run_makes_nothing_and_loads_no_model(tmp_path: Path) -> None:
    bulk(tmp_path, PROMPTS, FakeGenerator())
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert bulk(tmp_path, PROMPTS, never).exit_status == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.png")} == before
    assert summary(tmp_path)["already_done"] == 12


def test_a_failed_request_harms_no_other_and_is_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = bulk(tmp_path, PROMPTS, FakeGenerator(faults={"000003": BROKEN}))
    assert result.exit_status == 1
    assert len(names(tmp_path)) == 11
    (failure,) = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert (failure["id"], failure["type"], failure["error"]) == ("000003", "RequestError", str(BROKEN))
    assert "000003 failed: the engine choked on it" in capfd.readouterr().err
    again = FakeGenerator()
    assert bulk(tmp_path, PROMPTS, again).exit_status == 0
    assert again.submitted == ["000003"]


def test_a_bad_row_is_listed_and_the_others_are_made(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", "num_images": 2}\n{"prompt": "b", "height": -1}\n{"prompt": "c"}\n')
    result = bulk(tmp_path / "out", Rows.from_file(file, SamplingParams()), FakeGenerator())
    assert result.exit_status == 1
    assert names(tmp_path / "out") == ["000000_00.png", "000000_01.png", "000002.png"]
    (failure,) = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert failure["where"] == f"{file}:2"
    assert "height is -1" in failure["error"]


def test_no_usable_row_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"no row can be used, of 1; the first: --prompt 1: the prompt is empty"
    ):
        bulk(tmp_path, [""], never)
    with pytest.raises(InvalidRequestError, match="no rows: the input has none"):
        bulk(tmp_path, [], never)


def test_changed_rows_are_made_again_and_only_those(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bulk(tmp_path, PROMPTS, FakeGenerator())
    generator = FakeGenerator()
    bulk(tmp_path, first_row_changed(), generator)
    assert generator.submitted == ["000000"]
    assert "1 images are made again" in capfd.readouterr().err
    assert sorted(record["prompt"] for record in read_manifest(tmp_path)) == sorted(PROMPTS)


def test_a_dead_engine_ends_the_run_and_nothing_counts_as_failed(tmp_path: Path) -> None:
    faults = {f"{number:06d}": EngineDeadError("the engine's thread ended") for number in range(4, 12)}
    result = bulk(tmp_path, PROMPTS, FakeGenerator(faults=faults))
    assert result.exit_status == 1
    assert result.fatal == "the engine's thread ended"
    assert result.num_failed == 0
    assert bulk(tmp_path, PROMPTS, FakeGenerator()).exit_status == 0
    assert len(names(tmp_path)) == 12


def broken_after(count: int, number: int = 28, words: str = "No space left on device") -> Callable[[int], None]:
    left = [count]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, words)

    return fsync


@pytest.mark.parametrize("layout", ["files", "webdataset"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_ends_the_run_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], layout: Any, number: int
) -> None:
    options = SinkOptions(layout=layout)
    with monkeypatch.context() as patch, Sink(tmp_path, options=options) as sink:
        patch.setattr(disk.os, "fsync", broken_after(7, number, os.strerror(number)))
        rows = Rows.from_prompts(PROMPTS, SamplingParams())
        result = run_bulk(rows, sink, RunOptions(model=ModelId(model="fake"), max_num_seqs=2), FakeGenerator)
        patch.undo()
    assert result.exit_status == 1
    assert result.num_failed == 0
    assert result.fatal is not None
    assert ("the disk is full" if number == errno.ENOSPC else "make it writable") in result.fatal
    assert "run the same command again" in capfd.readouterr().err
    assert 0 < len(names(tmp_path)) < 12
    with Sink(tmp_path, options=SinkOptions(layout=layout, verify=True)) as sink:
        assert sink.num_distrusted == 0
        rows = Rows.from_prompts(PROMPTS, SamplingParams())
        assert run_bulk(rows, sink, RunOptions(model=ModelId(model="fake")), FakeGenerator).exit_status == 0
    assert len(names(tmp_path)) == 12


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_a_real_disk_that_is_full_ends_the_run_and_the_next_goes_on(tmp_path: Path, layout: Any) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("can't mount")
    try:
        options = SinkOptions(layout=layout)
        rows = Rows.from_prompts([f"prompt {number}" for number in range(60)], SamplingParams())
        run = RunOptions(model=ModelId(model="fake"))
        with Sink(tmp_path, options=options) as sink:
            result = run_bulk(rows, sink, run, FakeGenerator)
        assert result.exit_status == 1
        assert "the disk is full" in str(result.fatal)
        made = len(names(tmp_path))
        assert 3 < made < 60
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path)], check=True)
        with Sink(tmp_path, options=SinkOptions(layout=layout, verify=True)) as sink:
            assert (len(sink.images), sink.num_distrusted) == (made, 0)
            assert run_bulk(rows, sink, run, FakeGenerator).exit_status == 0
        assert len(names(tmp_path)) == 60
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


class Flaky(Exception):
    transient = True


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


def caused(by: Exception) -> Exception:
    error = RequestError("the model failed")
    error.__cause__ = by
    return error


TRANSIENT = [Flaky("x"), OutOfMemoryError("x"), MemoryError(), ConnectionResetError("x"), caused(OutOfMemoryError("x"))]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_an_error_that_may_pass_is_tried_again(tmp_path: Path, error: Exception) -> None:
    generator = FakeGenerator(faults={"000003": [error], "000005": [error, error]})
    assert bulk(tmp_path, PROMPTS, generator).exit_status == 0
    assert len(names(tmp_path)) == 12
    assert [generator.submitted.count(name) for name in ("000003", "000005", "000001")] == [2, 3, 1]
    assert summary(tmp_path)["retried"] == 2
    assert (tmp_path / "failures.jsonl").read_text() == ""


def failures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def test_an_error_that_stays_fails_after_so_many_attempts(tmp_path: Path) -> None:
    generator = FakeGenerator(faults={"000003": Flaky("busy"), "000004": BROKEN})
    assert bulk(tmp_path, PROMPTS, generator, max_retries=1).exit_status == 1
    assert [generator.submitted.count(name) for name in ("000003", "000004")] == [2, 1]
    listed = {line["id"]: line for line in failures(tmp_path)}
    where = {"where": "--prompt 4", "prompt": "prompt 3", "index": 0, "id": "000003", "name": "000003"}
    assert listed["000003"] == {**where, "error": "busy", "type": "Flaky", "attempts": 2}
    assert listed["000004"]["attempts"] == 1
    assert summary(tmp_path)["failed_by_kind"] == {"Flaky": 1, "RequestError": 1}


@pytest.mark.parametrize("error", [DeadlineExceededError("late"), InvalidRequestError("bad"), ValueError("x")])
def test_an_error_that_would_come_again_is_not_retried(error: Exception) -> None:
    assert not is_transient(error)
    assert not is_transient(EngineDeadError("dead"))
    refused = ConnectionError("for good")
    refused.transient = False  # type: ignore[attr-defined]
    assert not is_transient(refused)


def signal_after(count: int, generator: FakeGenerator, number: int, then: Callable[[], None] = lambda: None) -> None:
    """The process gets a signal once so many images were asked for: when the run is under way, and listens."""

    def send() -> None:
        while len(generator.submitted) < count:
            time.sleep(0.005)
        os.kill(os.getpid(), number)
        then()

    threading.Thread(target=send, daemon=True).start()


def test_a_stop_does_not_wait_for_retries(tmp_path: Path) -> None:
    generator = FakeGenerator(faults={f"{number:06d}": Flaky("busy") for number in range(12)})
    signal_after(4, generator, signal.SIGINT)
    result = bulk(tmp_path, PROMPTS, generator, max_retries=1000)  # each would be hours
    assert (result.exit_status, result.num_failed) == (130, 0)
    assert failures(tmp_path) == []


def test_retry_failed_runs_only_what_is_listed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bulk(out, PROMPTS, FakeGenerator(faults={"000003": BROKEN, "000007": BROKEN}))
    (out / "000001.png").unlink()  # missing, and not listed
    rows = failed_rows(Rows.from_prompts(PROMPTS, SamplingParams()), out)
    again = FakeGenerator(faults={"000007": BROKEN})
    assert bulk(out, rows, again, every_row=False).exit_status == 1
    assert again.submitted == ["000003", "000007"]
    assert [line["id"] for line in failures(out)] == ["000007"]
    report = (out / "report.html").read_text()
    assert "10 images" in report  # those of the run before as well
    assert bulk(out, PROMPTS, FakeGenerator()).exit_status == 0
    assert failures(out) == []


def test_a_stopped_run_forgets_no_failure(tmp_path: Path) -> None:
    bulk(tmp_path, PROMPTS, FakeGenerator(faults={"000011": BROKEN}))
    generator = FakeGenerator(faults={"000000": EngineDeadError("dead")})
    bulk(tmp_path, first_row_changed(), generator, max_num_seqs=1)
    assert [line["id"] for line in failures(tmp_path)] == ["000011"]


def test_ctrl_c_keeps_what_is_under_way_and_the_next_run_makes_the_rest(tmp_path: Path) -> None:
    generator = FakeGenerator(wait=threading.Event())

    def finish() -> None:
        while len(generator._aborted) < 2:  # what was queued
            time.sleep(0.005)
        assert generator.wait is not None
        generator.wait.set()

    signal_after(4, generator, signal.SIGINT, finish)
    result = bulk(tmp_path, PROMPTS, generator)
    assert result.exit_status == 128 + signal.SIGINT
    assert names(tmp_path) == ["000000.png", "000001.png"]  # two run at once; what was queued is left
    assert summary(tmp_path)["left"] == 10
    assert result.num_failed == 0
    assert bulk(tmp_path, PROMPTS, FakeGenerator()).exit_status == 0
    assert len(names(tmp_path)) == 12


def test_past_the_grace_time_everything_is_aborted(tmp_path: Path) -> None:
    generator = FakeGenerator(wait=threading.Event())
    signal_after(4, generator, signal.SIGTERM)
    result = bulk(tmp_path, PROMPTS, generator, grace_s=0.1)
    assert result.exit_status == 128 + signal.SIGTERM
    assert names(tmp_path) == []


_STUBBORN_RUN = """
import sys, threading
import interlace.bulk.run
from pathlib import Path
from fake_generator import FakeGenerator
from interlace.bulk.plan import RunOptions
from interlace.bulk.input.rows import Rows
from interlace.bulk.run import run_bulk
from interlace.bulk.output.sink import ModelId, Sink
from interlace.request import SamplingParams
rows = Rows.from_prompts(["a", "b", "c"], SamplingParams())
class Told(FakeGenerator):
    def submit(self, job):
        future = super().submit(job)
        print(job.name, flush=True)
        return future
    def abort(self, job):
        pass  # in a forward without end
interlace.bulk.run._LET_GO_S = 0.3
options = RunOptions(model=ModelId(model="fake"), grace_s=float(sys.argv[2]))
with Sink(Path(sys.argv[1])) as sink:
    run_bulk(rows, sink, options, lambda: Told(wait=threading.Event()))
"""


def stubborn_run(folder: Path, grace_s: float) -> "subprocess.Popen[bytes]":
    """A process whose three images never come, once all are asked for."""
    script = folder / "run.py"
    script.write_text(_STUBBORN_RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(script), str(folder / "out"), str(grace_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    return process


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    process = stubborn_run(tmp_path, 60)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == b"\n"
    assert process.stderr.readline() == b"stopping: up to 60 s for images under way; again: at once\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    process.communicate()
    assert bulk(tmp_path / "out", ["a", "b", "c"], FakeGenerator()).exit_status == 0


def test_a_forward_without_end_does_not_outlast_the_grace_time(tmp_path: Path) -> None:
    process = stubborn_run(tmp_path, 0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM
    process.communicate()
    assert bulk(tmp_path / "out", ["a", "b", "c"], FakeGenerator()).exit_status == 0


_KILLED_RUN = """
import sys
from pathlib import Path
from fake_generator import FakeGenerator
from interlace.bulk.plan import RunOptions
from interlace.bulk.input.rows import Rows
from interlace.bulk.run import run_bulk
from interlace.bulk.output.sink import ModelId, Sink, SinkOptions
from interlace.request import SamplingParams
rows = Rows.from_prompts([f"prompt {n}" for n in range(300)], SamplingParams())
with Sink(Path(sys.argv[1]), options=SinkOptions(layout=sys.argv[2], shard_size=70)) as sink:
    print("started", flush=True)
    run_bulk(rows, sink, RunOptions(model=ModelId(model="fake")), FakeGenerator)
"""

FAULTS = ["before a line", "half a line", "line written"]


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, layout: str) -> None:
    chance = random.Random(0)
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(_KILLED_RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(script), str(out), layout]
    for number in range(5):
        # In the files' layout a line is one of the manifest, in the other one it may also be a sample of a shard.
        fault = f"{FAULTS[number % 3]}:{chance.randint(2, 60)}" if number % 2 == 0 else ""
        killed = {**environment, "INTERLACE_FAULT": fault}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=killed)
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        if fault:
            ended = process.wait(600)
            assert ended == -signal.SIGKILL or (ended == 0 and number)  # 0: kills before it left too few rows
        else:
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
        process.communicate()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert names(out) == [f"{number:06d}.png" for number in range(300)]
    for record in read_manifest(out):
        assert hashlib.sha256(read_stored(out, record)).hexdigest() == record["sha256"]
    assert not list(out.glob(".tmp-*"))
    assert len(list(out.glob("0*.png"))) == (300 if layout == "files" else 0)
    members = []
    for shard in sorted(out.glob("shard-*.tar")):
        with tarfile.open(shard) as tar:
            members += [name for name in tar.getnames() if name.endswith(".png")]
    assert sorted(members) == (names(out) if layout == "webdataset" else [])


class Gathering(FakeGenerator):
    """Counts what was submitted while more was announced."""

    num_gathered = 0

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        yield
        self.num_gathered = len(self.submitted)


@pytest.mark.parametrize(("num_rows", "num_together"), [(12, 3), (2, 2)])
def test_as_many_as_run_at_once_start_together(tmp_path: Path, num_rows: int, num_together: int) -> None:
    generator = Gathering()
    assert bulk(tmp_path, PROMPTS[:num_rows], generator, max_num_seqs=3).exit_status == 0
    assert generator.num_gathered == num_together
    assert len(generator.submitted) == num_rows
