"""Partitions, nodes and parts: whose a row is, which node this is, what parts add up to."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_generator import picture
from hypothesis import given
from hypothesis import strategies as st

from interlace.bulk.input.rows import BadRow, Job, Row, Rows
from interlace.bulk.launch.nodes import place
from interlace.bulk.launch.partition import Partition, PartitionRows, row_hash
from interlace.bulk.output.failures import gather_failures
from interlace.bulk.output.index import Index
from interlace.bulk.output.manifest import image_name, read_manifest
from interlace.bulk.output.parts import gather_parts, known_images
from interlace.bulk.output.sink import Sink
from interlace.cli.flags.bulk import NodeFlags
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams


@given(st.text(min_size=1), st.integers(1, 5), st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_every_id_has_exactly_one_owner_also_where_nodes_differ_in_processes(
    row_id: str, num_nodes: int, num_processes: list[int]
) -> None:
    owners = [
        (rank, process)
        for rank in range(num_nodes)
        for process in range(num_processes[rank])
        if Partition(
            node_rank=rank, num_nodes=num_nodes, process=process, num_processes=num_processes[rank]
        ).owns(row_id)
    ]  # fmt: skip
    assert len(owners) == 1


def test_the_division_is_the_same_for_ever_and_even() -> None:
    assert row_hash("000000") == 0x91B4D142823F7D20 == row_hash("000000")
    shares = [0] * 6
    for number in range(6000):
        for process in range(3):
            for rank in range(2):
                partition = Partition(node_rank=rank, num_nodes=2, process=process, num_processes=3)
                shares[3 * rank + process] += partition.owns(f"{number:06d}")
    assert sum(shares) == 6000
    assert min(shares) > 900


def test_partitions_agree_on_whose_a_disputed_name_is(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"id": "a", "prompt": "x", "num_images": 2}\n{"id": "a_01", "prompt": "y"}\n{"id": "b", "height": -1}\n'
    )
    rows = Rows.from_file(file, SamplingParams())
    found = [list(PartitionRows(rows, Partition(process=process, num_processes=2))) for process in range(2)]
    kinds = sorted((row.id or "", type(row)) for partition in found for row in partition)
    assert kinds == [("a", Row), ("a_01", BadRow), ("b", BadRow)]


SKY = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "4"}
SRUN = {"SLURM_JOB_ID": "9", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8"}
SRUN |= {"SLURM_NODEID": "1", "SLURM_NNODES": "2"}
BATCH = {"SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NODEID": "0", "SLURM_NNODES": "2"}
OLD_SLURM = {"SLURM_NODEID": "1", "SLURM_NNODES": "3"}


@pytest.mark.parametrize(
    ("environment", "flags", "expected", "note"),
    [
        ({}, {}, (0, 1), None),
        ({}, {"node_rank": 1, "num_nodes": 3}, (1, 3), None),
        (SKY, {}, (1, 2), "node 1 of 2 (from SkyPilot)"),
        (KUBERNETES, {}, (2, 4), "node 2 of 4 (from Kubernetes)"),
        (SKY | KUBERNETES | SRUN, {}, (1, 2), "node 1 of 2 (from SkyPilot)"),
        (SRUN, {}, (5, 8), "node 5 of 8 (from Slurm, one a task)"),
        (OLD_SLURM, {}, (1, 3), "node 1 of 3 (from Slurm)"),
        (BATCH, {}, (0, 1), "in a Slurm job but not started by srun"),
        (SKY, {"node_rank": 0, "num_nodes": 4}, (0, 4), None),
        ({"JOB_COMPLETION_INDEX": "2"}, {"num_nodes": 3}, (2, 3), "node 2 of 3 (from Kubernetes)"),
        ({"JOB_COMPLETION_INDEX": "2"}, {"num_nodes": 1}, (0, 1), None),
    ],
)
def test_the_node_is_found_from_flags_or_the_scheduler(
    environment: dict[str, str], flags: dict[str, int], expected: tuple[int, int], note: str | None
) -> None:
    placement = place(NodeFlags(**flags), environment=environment)
    assert (placement.node_rank, placement.num_nodes) == expected
    assert placement.is_alone == (expected[1] == 1)
    assert len(placement.notes) == (note is not None)
    assert all(note is not None and said.startswith(note) for said in placement.notes)


@pytest.mark.parametrize(
    ("environment", "flags", "words"),
    [
        ({}, {"num_nodes": 2}, "nothing says which node this is; give --node-rank 0 to 1"),
        ({}, {"node_rank": 0}, "nothing says of how many; give --num-nodes"),
        ({"JOB_COMPLETION_INDEX": "2"}, {}, "this is node 2 and nothing says of how many"),
        ({}, {"node_rank": 2, "num_nodes": 2}, "node_rank is 2; expected 0 to 1"),
        ({}, {"node_rank": 0, "num_nodes": 0}, "num_nodes is 0; expected at least 1"),
        ({}, {"num_processes": 0}, "num_processes is 0; expected at least 1"),
        (SKY | {"SKYPILOT_NODE_RANK": "one"}, {}, "SKYPILOT_NODE_RANK is 'one'; expected a whole number"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"num_gpus": 3}, "num_gpus is 3; expected 1 to 2"),
        ({"CUDA_VISIBLE_DEVICES": ""}, {"num_gpus": 1}, "num_gpus is 1; there is none here"),
    ],
)
def test_numbers_that_can_not_be_are_refused(environment: dict[str, str], flags: dict[str, int], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        place(NodeFlags(**flags), environment=environment)


def test_each_process_has_its_gpu() -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "3,GPU-5a,1"}
    assert place(NodeFlags(num_gpus=2), environment=visible).devices == ("3", "GPU-5a")
    assert place(NodeFlags(num_gpus=1), environment=visible).has_workers
    assert place(NodeFlags(num_gpus=2, num_processes=4), environment=visible).devices == ("3", "GPU-5a") * 2
    with pytest.raises(InvalidRequestError, match="exclude each other"):
        place(NodeFlags(num_gpus=1), "cpu", visible)


ONE, OTHER = Partition(process=0, num_processes=2), Partition(process=1, num_processes=2)


def make_job(name: str, **sampling: Any) -> Job:
    return Job(row_id=name, index=0, name=name, prompt=f"a {name}", sampling=SamplingParams(**{"seed": 1, **sampling}))


def write(sink: Sink, job: Job) -> None:
    sink.write(job, picture(job), {"prompt": job.prompt, "seed": job.sampling.seed}, {})


def mine(partition: Partition, count: int = 3) -> list[str]:
    return [name for name in map(str, range(100)) if partition.owns(name)][:count]


def names_of(index: Index) -> set[str]:
    return {image_name(record) for record in index.records()}


def test_parts_become_one_manifest_in_the_order_asked_for(tmp_path: Path) -> None:
    names = [*mine(OTHER), *mine(ONE)]
    with Sink(tmp_path, partition=ONE) as one, Sink(tmp_path, partition=OTHER) as other:
        for name in mine(ONE):
            write(one, make_job(name))
        for name in mine(OTHER):
            write(other, make_job(name))
        one.fail(make_job("lost"), "why", "Error")
    gather_parts(tmp_path, sorted(names))
    gather_failures(tmp_path)
    assert [record["id"] for record in read_manifest(tmp_path)] == sorted(names)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["failures.jsonl", "manifest.jsonl"]
    assert json.loads((tmp_path / "failures.jsonl").read_text())["name"] == "lost"


def test_a_plain_run_takes_over_what_parts_say(tmp_path: Path) -> None:
    (name, *_) = mine(ONE)
    with Sink(tmp_path, partition=ONE) as sink:
        write(sink, make_job(name))
        sink.fail(make_job("lost"), "why", "Error")
        sink.write_summary({"done": 1})
    (tmp_path / ".tmp-0-0-x.png").write_bytes(b"half")
    with Sink(tmp_path) as sink:
        assert (len(sink.images), name in sink.images) == (1, True)
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock"))
    assert left == [f"{name}.png", "failures.jsonl", "manifest.jsonl"]
    assert "lost" in (tmp_path / "failures.jsonl").read_text()


def test_a_shard_knows_its_own_rows_from_all_files_and_leaves_the_others_lines_alone(tmp_path: Path) -> None:
    theirs, ours = mine(OTHER)[0], mine(ONE)[0]
    with Sink(tmp_path) as sink:
        write(sink, make_job(ours))
    everything = Partition()
    with Sink(tmp_path, partition=everything) as sink:  # the same part name as ONE, before the rows were divided anew
        write(sink, make_job(theirs))
    with Sink(tmp_path, partition=ONE) as sink:
        assert (len(sink.images), ours in sink.images) == (1, True)
    with Sink(tmp_path, partition=OTHER) as sink:
        assert (len(sink.images), theirs in sink.images) == (1, True)
    assert names_of(known_images(tmp_path)) == {ours, theirs}


def test_where_two_parts_disagree_the_file_decides(tmp_path: Path) -> None:
    job, again = make_job("7"), make_job("7", seed=2)
    for partition in (Partition(process=1, num_processes=9), Partition(process=0, num_processes=9)):
        with Sink(tmp_path, partition=partition) as sink:
            write(sink, again if partition.process == 0 else job)
    assert known_images(tmp_path).record("7")["seed"] == 2


def test_a_line_that_is_being_written_is_no_news_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = mine(ONE)[0], mine(OTHER)[0]
    with Sink(tmp_path, partition=OTHER) as sink:
        write(sink, make_job(theirs))
    part = tmp_path / "manifest.0-1.jsonl"
    part.write_bytes(part.read_bytes() + b'{"file": "x')
    with Sink(tmp_path, partition=ONE) as sink:
        write(sink, make_job(ours))
    assert caplog.records == []
    with Sink(tmp_path) as sink:
        assert names_of(sink.images) == {ours, theirs}
