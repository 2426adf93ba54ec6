"""Bulk runs on a cluster of two nodes: whoever dies, every row is there once, as it would be without Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stages.mortal import MortalStage

from interlace.errors import AbortedError, InvalidRequestError, RequestError
from interlace.ray.cluster import Fleet, fleet_for
from interlace.request import Request, SamplingParams
from tests.on_ray.processes import actors

WAIT_S = 240
NUM_ROWS = 40


@pytest.fixture(scope="module")
def cluster(ray_alone: None) -> Iterator[Any]:
    """Two nodes of one core each."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # of other modules
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    two = Cluster(initialize_head=True, head_node_args=node)
    two.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    two.wait_for_nodes(timeout=WAIT_S)
    yield two
    ray.shutdown()
    two.shutdown()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def asked(name: str, prompt: str, **sampling: Any) -> Request:
    return Request(request_id=name, prompt=prompt, sampling=SamplingParams(**sampling))


def test_replicas_in_actors_keep_to_the_protocol(cluster: Any) -> None:
    from interlace.ray.cluster import connect
    from interlace.ray.replica import ActorSpec
    from interlace.stages.replicas.replicas import ReplicaStage

    connect(cluster.address)
    fleet = Fleet(num_replicas=2)
    specs = [ActorSpec(opener=MortalStage, name=f"replica {i}", fleet=fleet, max_live=3) for i in range(2)]
    stage = ReplicaStage(specs, num_needed=1)
    try:
        wait_until(lambda: all(one["state"] == "up" for one in stage.stats()["replicas"]))
        futures = [stage.submit(asked(f"r{i}", "s=1", seed=i)) for i in range(12)]
        wait_until(lambda: max(one["live"] for one in stage.stats()["replicas"]) == 3)
        os.kill(actors(cluster)[0], signal.SIGKILL)
        outputs = [future.result(WAIT_S) for future in futures]
        alone = MortalStage()
        for i, output in enumerate(outputs):
            expected = alone.output("s=1", SamplingParams(seed=i), f"r{i}")
            assert output.images[0].tobytes() == expected.images[0].tobytes()
        wait_until(lambda: sum(one["restarts"] for one in stage.stats()["replicas"]) == 1)
        assert isinstance(stage.submit(asked("bad", "bad")).result(WAIT_S).error, RequestError)
        slow = stage.submit(asked("slow", "s=600"))
        wait_until(lambda: stage.live()[0]["replica"] is not None)
        assert stage.abort("slow")
        assert isinstance(slow.result(WAIT_S).error, AbortedError)
    finally:
        stage.close()
    wait_until(lambda: not actors(cluster))


def test_edits_are_made_by_actors_as_they_are_made_here(cluster: Any, tmp_path: Path) -> None:
    from interlace.cli.main import run

    for number in range(3):
        Image.new("RGB", (64, 64), (90 * number, 120, 30)).save(tmp_path / f"{number}.png")
    lines = [f"e{number},{number}.png,make it number {number}" for number in range(3)]
    (tmp_path / "edits.csv").write_text("\n".join(["id,input_images,instruction", *lines]) + "\n")
    command = ["edit", "--input", str(tmp_path / "edits.csv"), "--num-inference-steps", "1", "--no-html",
               "--height", "64", "--width", "64", "--output-dir"]  # fmt: skip
    assert run([*command, str(tmp_path / "ray"), "--ray", cluster.address, "--num-replicas", "1"]) == 0
    assert run([*command, str(tmp_path / "here")]) == 0
    for number in range(3):
        with (
            Image.open(tmp_path / "ray" / f"e{number}.png") as one,
            Image.open(tmp_path / f"here/e{number}.png") as two,
        ):
            assert np.abs(np.asarray(one, dtype=int) - np.asarray(two, dtype=int)).max() <= 1
    wait_until(lambda: not actors(cluster))


def rows_file(folder: Path, num_rows: int) -> Path:
    subjects = ("a red circle", "a blue star", "two green squares", "a yellow triangle")
    rows = [{"prompt": f"{subjects[i % 4]} {i}", "num_inference_steps": 15 + i % 3} for i in range(num_rows)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(rows: Path, out: Path, address: str) -> "subprocess.Popen[str]":
    words = ["t2i", "--prompts-file", str(rows), "--output-dir", str(out), "--size", "64x64", "--no-html"]
    words += ["--max-num-seqs", "4", "--ray", address, "--num-replicas", "2"]
    return subprocess.Popen([sys.executable, "-m", "interlace", *words], stderr=subprocess.PIPE, text=True)


def lines(out: Path) -> list[dict[str, Any]]:
    path = out / "manifest.jsonl"
    found = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in found if line.endswith("\n")]


def test_rows_survive_actors_nodes_and_the_driver(cluster: Any, tmp_path: Path) -> None:
    rows, out = rows_file(tmp_path, NUM_ROWS), tmp_path / "out"
    first = start(rows, out, cluster.address)
    try:
        wait_until(lambda: len(lines(out)) >= NUM_ROWS // 8)
        os.kill(actors(cluster)[0], signal.SIGKILL)
        wait_until(lambda: len(lines(out)) >= NUM_ROWS // 4)
    finally:
        first.kill()
        first.communicate()
    before = len(lines(out))
    assert before < NUM_ROWS
    wait_until(lambda: not actors(cluster))

    second = start(rows, out, cluster.address)
    wait_until(lambda: len(lines(out)) > before)
    cluster.remove_node(cluster.worker_nodes.copy().pop())
    told = second.communicate(timeout=WAIT_S)[1]
    assert second.returncode == 0, told
    assert f"{before} there already" in told or f"{before + 1} there already" in told, told
    check_union(out)


def check_union(out: Path) -> None:
    """Every row once, and as it is made without Ray."""
    from interlace import Omni

    found = sorted(lines(out), key=lambda line: line["file"])
    assert [line["file"] for line in found] == [f"{i:06d}.png" for i in range(NUM_ROWS)]
    assert (out / "failures.jsonl").read_text() == ""
    names = ("prompt", "seed", "num_inference_steps", "height", "width")
    with Omni("demo", max_num_seqs=8) as omni:
        alone = omni.generate([{name: line[name] for name in names} for line in found], raise_on_error=True)
    for line, output in zip(found, alone, strict=True):
        with Image.open(out / line["file"]) as image:
            difference = np.abs(np.asarray(image, dtype=int) - np.asarray(output.images[0], dtype=int))
        assert difference.max() <= 1, line["file"]


@pytest.mark.parametrize(
    ("nodes", "num", "expected"),
    [
        ([{"CPU": 8}, {"CPU": 4}], None, Fleet(num_replicas=2, num_cpus=4)),
        ([{"CPU": 8}], 2, Fleet(num_replicas=2, num_cpus=4)),
        ([{"CPU": 2}], 5, Fleet(num_replicas=5, num_cpus=1)),
        ([{"CPU": 8, "GPU": 8}, {"CPU": 8, "GPU": 8}, {"CPU": 4}], None, Fleet(num_replicas=16, num_gpus=1)),
        ([{"CPU": 8, "GPU": 8}], 2, Fleet(num_replicas=2, num_gpus=1)),
    ],
)
def test_replicas_fit_their_nodes(nodes: list[dict[str, Any]], num: int | None, expected: Fleet) -> None:
    assert fleet_for(nodes, num) == expected


def test_a_cluster_without_room_and_numbers_without_sense_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="neither GPUs nor CPUs"):
        fleet_for([{"memory": 1}])
    with pytest.raises(InvalidRequestError, match="at least 1"):
        fleet_for([{"CPU": 1}], 0)
