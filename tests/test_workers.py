"""bulk/worker.py, bulk/workers.py, bulk/node.py: many processes and nodes in one folder; deaths cost time only."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from partitioned import hold_of

from interlace.bulk.launch.launcher import Worker
from interlace.bulk.launch.partition import Partition
from interlace.bulk.launch.worker import Orders
from interlace.bulk.output.manifest import read_manifest

SCRIPT = Path(__file__).with_name("partitioned.py")


def command(folder: Path, num_images: int, *flags: object) -> list[str]:
    return [sys.executable, str(SCRIPT), str(folder), str(num_images), *map(str, flags)]


def run(folder: Path, num_images: int, *flags: object, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **environment}
    return subprocess.run(command(folder, num_images, *flags), env=given, capture_output=True, text=True, timeout=300)


def start(folder: Path, num_images: int, *flags: object, **environment: str) -> "subprocess.Popen[str]":
    given = {**os.environ, **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(folder, num_images, *flags), env=given, stderr=pipe, stdout=pipe, text=True)


def names(folder: Path) -> list[str]:
    return [Path(record["file"]).stem for record in read_manifest(folder)]


def expected(num_images: int) -> list[str]:
    return [f"{number:06d}" for number in range(num_images)]


def summary(folder: Path) -> Mapping[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def failures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def children(process: "subprocess.Popen[str]") -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def wait_for(condition: Any, seconds: float = 300.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within, each process makes five images and waits then, however fast it is."""
    hold = hold_of(folder)
    hold.touch()
    try:
        yield
    finally:
        hold.unlink()


def num_lines(folder: Path, partition: str) -> int:
    path = folder / f"manifest.{partition}.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_two_processes_make_all_rows_once_and_leave_one_manifest_in_input_order(tmp_path: Path) -> None:
    done = run(tmp_path, 40, "--num-processes", 2)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == expected(40)
    assert not list(tmp_path.glob("manifest.*-*.jsonl"))
    assert not list(tmp_path.glob("failures.*-*.jsonl"))
    assert not list(tmp_path.glob(".tmp-*"))
    facts = summary(tmp_path)
    assert (facts["done"], facts["left"], facts["failed"]) == (40, 0, 0)
    mine = [name for name in expected(40) if Partition(process=0, num_processes=2).owns(name)]
    assert [part["done"] for part in facts["processes"]] == [len(mine), 40 - len(mine)]
    assert (tmp_path / "contact_sheet.jpg").is_file()


def test_a_second_run_makes_nothing_whatever_the_number_of_processes(tmp_path: Path) -> None:
    assert run(tmp_path, 20, "--num-processes", 2).returncode == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    for flags in (("--num-processes", 3), (), ("--num-nodes", 2, "--node-rank", 1)):
        assert run(tmp_path, 20, *flags).returncode == 0
        assert summary(tmp_path)["already_done"] == 20
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")} == before


def test_each_process_sees_its_own_gpu_and_its_share_of_the_cores(tmp_path: Path) -> None:
    done = run(tmp_path, 20, "--num-gpus", 2, CUDA_VISIBLE_DEVICES="4,6,7", OMP_NUM_THREADS="6")
    assert done.returncode == 0, done.stderr
    parts = summary(tmp_path)["processes"]
    assert [(part["CUDA_VISIBLE_DEVICES"], part["OMP_NUM_THREADS"]) for part in parts] == [("4", "3"), ("6", "3")]


def test_a_failed_image_is_listed_and_gives_the_status(tmp_path: Path) -> None:
    done = run(tmp_path, 12, "--num-processes", 2, "--fail", "000005")
    assert done.returncode == 1
    assert [line["name"] for line in failures(tmp_path)] == ["000005"]
    assert summary(tmp_path)["failed"] == 1
    assert "000005 failed" in done.stderr
    assert run(tmp_path, 12, "--num-processes", 2).returncode == 0
    assert failures(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
def test_a_killed_process_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    with held(tmp_path):
        process = start(tmp_path, 60, "--num-processes", 2)
        wait_for(lambda: num_lines(tmp_path, "0-0") > 3)
        os.kill(children(process)[0], signal.SIGKILL)
    _, words = process.communicate(timeout=300)
    assert process.returncode == 0, words
    assert "died (signal 9" in words
    assert names(tmp_path) == expected(60)
    facts = summary(tmp_path)
    assert (facts["restarts"], facts["left"], facts["failed"]) == (1, 0, 0)
    assert (facts["done"], facts["already_done"]) == (60, 0)


def test_an_image_that_kills_its_process_three_times_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    done = run(tmp_path, 30, "--num-processes", 2, INTERLACE_FAULT="began 000007:1")
    assert done.returncode == 1, done.stderr
    assert sorted(names(tmp_path)) == [name for name in expected(30) if name != "000007"]
    (failure,) = failures(tmp_path)
    assert (failure["name"], failure["type"]) == ("000007", "WorkerDiedError")
    assert "died 3 times at this image (signal 9" in failure["error"]
    assert summary(tmp_path)["restarts"] == 3
    assert run(tmp_path, 30, "--num-processes", 2).returncode == 0
    assert names(tmp_path) == expected(30)


def test_a_worker_that_can_not_live_is_given_up() -> None:
    worker = Worker(Orders(partition=Partition()))
    assert "is started again" in str(worker.died(-9))
    assert "is started again" in str(worker.died(-9))
    assert "died 3 times in a row and finished nothing (signal 9" in str(worker.died(-9))
    assert worker.status == 1
    busy = Worker(Orders(partition=Partition()))
    for number in range(9):
        busy.note({"event": "began", "name": f"{number // 3}"})
        assert "is started again" in str(busy.died(139))
    busy.note({"event": "began", "name": "3"})
    assert "died 10 times" in str(busy.died(139))
    assert busy.num_condemned == 3


def test_a_worker_that_says_what_is_wrong_is_not_started_again() -> None:
    worker = Worker(Orders(partition=Partition()))
    assert worker.died(2) is None
    assert worker.status == 2


def test_ctrl_c_ends_every_process_softly_and_the_next_run_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, 200, "--num-processes", 2, "--seconds", 0.3)
    wait_for(lambda: num_lines(tmp_path, "0-0") > 3 and num_lines(tmp_path, "0-1") > 3)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=300)
    assert process.returncode == 130, words
    assert "left for the next run" in words
    assert 0 < len(names(tmp_path)) < 200
    assert failures(tmp_path) == []
    assert run(tmp_path, 200, "--num-processes", 2).returncode == 0
    assert names(tmp_path) == expected(200)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("parent_is_killed", [False, True])
def test_a_second_ctrl_c_or_a_killed_parent_leave_no_process_behind(tmp_path: Path, parent_is_killed: bool) -> None:
    process = start(tmp_path, 2000, "--num-processes", 2, "--seconds", 0.1)
    wait_for(lambda: num_lines(tmp_path, "0-0") > 3)
    pids = children(process)
    assert len(pids) == 2
    if parent_is_killed:
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        wait_for(lambda: "stopping" in process.stderr.readline())
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    wait_for(lambda: not any(_is_alive(pid) for pid in pids))
    assert run(tmp_path, 30, "--num-processes", 2).returncode == 0
    assert set(expected(30)) <= set(names(tmp_path))


def _is_alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and " Z " not in path.read_text()


def test_what_a_killed_parent_left_is_put_together_by_any_later_run(tmp_path: Path) -> None:
    process = start(tmp_path, 300, "--num-processes", 3, "--seconds", 0.3)
    wait_for(lambda: all(num_lines(tmp_path, f"0-{number}") > 3 for number in range(3)))
    process.kill()
    process.communicate(timeout=300)
    made = sum(num_lines(tmp_path, f"0-{number}") for number in range(3))
    wait_for(lambda: run(tmp_path, 300).returncode == 0)  # the orphans may need a moment to notice
    assert names(tmp_path)[:made] != []
    assert sorted(names(tmp_path)) == expected(300)
    assert summary(tmp_path)["already_done"] >= made


@pytest.mark.parametrize("num_nodes", [2, 3])
def test_nodes_that_start_at_different_times_and_are_killed_make_each_row_once(tmp_path: Path, num_nodes: int) -> None:
    def node(rank: int, fault: str = "") -> "subprocess.Popen[str]":
        return start(tmp_path, 90, "--num-nodes", num_nodes, "--node-rank", rank, INTERLACE_FAULT=fault)

    with held(tmp_path):
        running = {0: node(0, "half a line:5")}
        wait_for(lambda: num_lines(tmp_path, "0-0") > 2)
        for rank in range(1, num_nodes):
            running[rank] = node(rank)
            wait_for(lambda: num_lines(tmp_path, f"{rank}-0") > 2)  # noqa: B023
        running[num_nodes - 1].kill()
        running[num_nodes - 1].communicate()
    running[num_nodes - 1] = node(num_nodes - 1, "renamed:9")
    for rank in (0, num_nodes - 1):
        running[rank].communicate(timeout=300)
        assert running[rank].returncode == -signal.SIGKILL
        running[rank] = node(rank)
    for process in running.values():
        _, words = process.communicate(timeout=300)
        assert process.returncode == 0, words
    assert names(tmp_path) == expected(90)
    assert not list(tmp_path.glob("manifest.*-*.jsonl"))
    assert summary(tmp_path)["left"] == 0


def test_nodes_may_run_one_after_the_other_and_be_divided_anew(tmp_path: Path) -> None:
    assert run(tmp_path, 60, "--num-nodes", 2, "--node-rank", 1).returncode == 0
    theirs = [name for name in expected(60) if Partition(node_rank=1, num_nodes=2).owns(name)]
    assert names(tmp_path) == theirs
    assert summary(tmp_path)["left"] == 60 - len(theirs)
    for rank, num_processes in ((0, 1), (1, 2), (2, 1)):
        flags = ("--num-nodes", 3, "--node-rank", rank, "--num-processes", num_processes)
        assert run(tmp_path, 60, *flags).returncode == 0
    assert names(tmp_path) == expected(60)


def test_a_kill_while_results_are_put_together_loses_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, 40, "--num-nodes", 2, "--node-rank", 0).returncode == 0
    done = run(tmp_path, 40, "--num-nodes", 2, "--node-rank", 1, INTERLACE_FAULT="gathered")
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("manifest.*-*.jsonl"))
    assert run(tmp_path, 40).returncode == 0
    assert names(tmp_path) == expected(40)
    assert summary(tmp_path)["already_done"] == 40


def test_the_same_node_twice_another_division_and_a_plain_run_are_refused_meanwhile(tmp_path: Path) -> None:
    process = start(tmp_path, 2000, "--num-nodes", 2, "--node-rank", 0, "--seconds", 0.5)
    wait_for(lambda: num_lines(tmp_path, "0-0") > 0)
    for flags, words in (
        (("--num-nodes", 2, "--node-rank", 0), "node 0 of 2 is writing to .* already"),
        (("--num-nodes", 3, "--node-rank", 1), "a run with 2 nodes is writing .*, this one has 3"),
        ((), "another run is writing"),
    ):
        done = run(tmp_path, 2000, *flags)
        assert done.returncode == 2
        assert re.search(words, done.stderr)
    process.kill()
    process.communicate()


def test_overwriting_with_processes_that_die_makes_each_image_once_more(tmp_path: Path) -> None:
    assert run(tmp_path, 30, "--num-processes", 2).returncode == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    with held(tmp_path):
        process = start(tmp_path, 30, "--num-processes", 2, "--overwrite")
        wait_for(lambda: num_lines(tmp_path, "0-0") > 3)
        os.kill(children(process)[0], signal.SIGKILL)
    _, words = process.communicate(timeout=300)
    assert process.returncode == 0, words
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    assert all(after[name] > before[name] for name in before)
    assert names(tmp_path) == expected(30)
