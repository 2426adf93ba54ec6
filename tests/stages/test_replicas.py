"""Replicas in processes, over a stage without a model: nothing lost, nothing doubled, whoever dies."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from interlace.errors import AbortedError, EngineClosedError, InvalidRequestError, RequestError
from interlace.request import Output, Progress, Request, SamplingParams
from interlace.stages.replicas.processes.process import ReplicaSpec
from interlace.stages.replicas.replicas import ReplicaStage
from stages.mortal import MortalStage

WAIT_S = 120


def asked(name: str, prompt: Any, **sampling: Any) -> Request:
    return Request(request_id=name, prompt=prompt, sampling=SamplingParams(**sampling))


def specs(num: int, opener: Callable[[], object] = MortalStage) -> list[ReplicaSpec]:
    environment = {"OMP_NUM_THREADS": "1"}
    return [ReplicaSpec(opener=opener, name=f"replica {i}", environment=environment) for i in range(num)]


@pytest.fixture
def two() -> Iterator[ReplicaStage]:
    stage = ReplicaStage(specs(2))
    yield stage
    stage.close()


def pids(stage: ReplicaStage) -> list[int]:
    return [one["pid"] for one in stage.stats()["replicas"]]


def test_outputs_come_back_with_pictures_and_the_work_is_divided(two: ReplicaStage) -> None:
    futures = [two.submit(asked(f"r{i}", "s=2", seed=i)) for i in range(12)]  # all before one of them is done
    outputs = [future.result(WAIT_S) for future in futures]
    alone = MortalStage()
    for i, output in enumerate(outputs):
        expected = alone.output("s=2", SamplingParams(seed=i), f"r{i}")
        assert (output.request_id, output.seeds) == (f"r{i}", [i])
        assert output.images[0].tobytes() == expected.images[0].tobytes()
    counts = [one["engine"]["done"] for one in two.stats()["replicas"]]
    assert sum(counts) == 12
    assert min(counts) >= 4
    assert two.describe() == {"model": "mortal", "threads": "1", "replicas": 2}


def test_a_request_without_a_seed_gets_one_that_is_told(two: ReplicaStage) -> None:
    outputs = [two.submit(asked(f"r{i}", "x")).result(WAIT_S) for i in range(2)]
    assert all(len(output.seeds) == 1 for output in outputs)
    assert outputs[0].seeds != outputs[1].seeds


def test_errors_odd_outputs_and_odd_prompts_end_their_own_request_alone(two: ReplicaStage) -> None:
    prompts = ["bad", "odd", "fine"]
    outputs = [two.submit(asked(p, p)).result(WAIT_S) for p in prompts]
    assert isinstance(outputs[0].error, RequestError)
    assert "OddError: bad 1" in str(outputs[0].error)
    assert "can't be sent" in str(outputs[1].error)
    assert outputs[2].error is None
    unsendable = two.submit(asked("u", lambda: None)).result(WAIT_S)
    assert isinstance(unsendable.error, InvalidRequestError)
    assert two.submit(asked("u", "fine")).result(WAIT_S).error is None


def test_an_id_in_use_is_refused_and_free_afterwards(two: ReplicaStage) -> None:
    first = two.submit(asked("same", "s=60"))
    second = two.submit(asked("same", "x")).result(WAIT_S)
    assert isinstance(second.error, InvalidRequestError)
    assert two.abort("same")
    assert isinstance(first.result(WAIT_S).error, AbortedError)
    assert two.submit(asked("same", "x")).result(WAIT_S).error is None


def test_aborts_reach_the_process(two: ReplicaStage) -> None:
    future = two.submit(asked("long", "s=30"))
    assert two.abort("long")
    assert not two.abort("nobody")
    assert isinstance(future.result(WAIT_S).error, AbortedError)


def test_a_killed_process_is_started_again_and_its_requests_run_elsewhere_with_the_same_seeds(
    two: ReplicaStage,
) -> None:
    told: list[Progress] = []
    ended: Counter[str] = Counter()
    before = pids(two)
    futures = []
    for i in range(20):
        future = two.submit(asked(f"r{i}", "s=0.6", seed=i), told.append)
        future.add_done_callback(lambda done: ended.update([done.result().request_id]))
        futures.append(future)
    while len({progress.request_id for progress in told}) < 10:
        time.sleep(0.01)
    aborted = {f"r{i}" for i in (3, 4)}
    for name in aborted:
        two.abort(name)
    os.kill(before[0], signal.SIGKILL)
    outputs = [future.result(WAIT_S) for future in futures]

    alone = MortalStage()
    for i, output in enumerate(outputs):
        if output.request_id in aborted:
            assert isinstance(output.error, AbortedError) or output.error is None
        else:
            assert output.error is None
            expected = alone.output("", SamplingParams(seed=i), "")
            assert output.images[0].tobytes() == expected.images[0].tobytes()
    assert set(ended.values()) == {1}
    assert two.submit(asked("after", "x")).result(WAIT_S).error is None
    wait_until(lambda: before[0] not in pids(two) and all(one["state"] == "up" for one in two.stats()["replicas"]))
    assert before[1] in pids(two)


def test_a_request_that_kills_three_processes_fails_alone(two: ReplicaStage) -> None:
    futures = {name: two.submit(asked(name, f"s=0.4 {name}")) for name in ["a", "b", "die", "c", "d"]}
    outputs = {name: future.result(WAIT_S) for name, future in futures.items()}
    assert [name for name, output in outputs.items() if output.error is not None] == ["die"]
    assert isinstance(outputs["die"].error, RequestError)
    assert "3 processes died" in str(outputs["die"].error)
    assert sum(one["restarts"] for one in two.stats()["replicas"]) == 3


def test_a_short_request_is_done_while_a_long_one_runs(two: ReplicaStage) -> None:
    long = two.submit(asked("long", "s=60", num_inference_steps=500))
    for i in range(6):
        short = two.submit(asked(f"s{i}", "s=0.02", num_inference_steps=1))
        assert short.result(WAIT_S).error is None
    assert not long.done()
    two.abort("long")


def test_what_waits_when_the_replicas_are_closed_ends_with_an_error() -> None:
    stage = ReplicaStage(specs(1))
    pending = stage.submit(asked("pending", "s=600"))
    stage.close()
    assert isinstance(pending.result(WAIT_S).error, EngineClosedError)
    late = stage.submit(asked("late", "x")).result(WAIT_S)
    assert isinstance(late.error, EngineClosedError)


def test_what_keeps_a_replica_from_opening_is_raised() -> None:
    with pytest.raises(InvalidRequestError, match="no such model"):
        ReplicaStage(specs(2, partial(MortalStage, fails="no such model")))


def test_outputs_are_given_once_to_owners_that_submit_again_from_there(two: ReplicaStage) -> None:
    done = threading.Event()
    count = 0

    def again(output: Output) -> None:
        nonlocal count
        count += 1
        if count == 30:
            done.set()
            return
        future = two.submit(asked(f"r{count}", "x"))
        future.add_done_callback(lambda ended: again(ended.result()))

    again(Output(request_id="r"))
    assert done.wait(WAIT_S)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.05)
