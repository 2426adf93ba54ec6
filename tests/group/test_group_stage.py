"""A group as a stage: a rank that is killed ends its forwards at once, the group is started again, and serves."""

import os
import signal
import time
from pathlib import Path

from interlace import Omni
from interlace.engine.group.config import GroupConfig
from interlace.stages.replicas.counts import ReplicaStatus
from tests.tiny import save_tiny_flux

_WAIT_S = 600.0


def _children(pid: int | None) -> list[int]:
    """Of a process of this machine (Linux), by their parent's number."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_follower_that_is_killed_costs_a_restart_and_no_request(tmp_path: Path) -> None:
    model = str(save_tiny_flux(tmp_path))
    requests = [{"prompt": f"a red circle {i}", "seed": i, "num_inference_steps": 2 + i} for i in range(3)]
    with Omni(model) as alone:
        expected = [output.images[0].tobytes() for output in alone.generate(requests, raise_on_error=True)]
    with Omni(model, parallel=GroupConfig(rows_degree=2, timeout_s=300.0), max_batch_rows=None) as omni:
        assert omni.describe()["ranks"] == 2
        _check(omni, requests, expected)
        (leader,) = _replicas(omni)
        (follower,) = _children(leader.pid)
        os.kill(follower, signal.SIGKILL)
        until = time.monotonic() + _WAIT_S
        while not (again := _replicas(omni)[0]).restarts and time.monotonic() < until:
            _check(omni, requests, expected)  # run again, by the group that was started anew
        assert again.restarts == 1
        assert again.pid != leader.pid
        while leader.pid in _children(os.getpid()) and time.monotonic() < until:
            time.sleep(0.05)
        assert leader.pid not in _children(os.getpid())
        assert len(_children(again.pid)) == 1
        _check(omni, requests, expected)


def _replicas(omni: Omni) -> list[ReplicaStatus]:
    engine = omni.engine
    return engine.replicas()  # type: ignore[union-attr]  # of a stage in processes


def _check(omni: Omni, requests: list[dict[str, object]], expected: list[bytes]) -> None:
    futures = [omni.submit(request) for request in requests]
    for future, pixels in zip(futures, expected, strict=True):
        output = future.result(_WAIT_S)
        assert output.error is None, output.error
        apart = [abs(one - other) for one, other in zip(output.images[0].tobytes(), pixels, strict=True)]
        assert max(apart) <= 1  # of 255
