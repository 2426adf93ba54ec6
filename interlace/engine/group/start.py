"""The ranks of a group on this machine: the first starts the others as processes, and takes them with it."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from interlace.engine.group.config import GroupConfig, LaunchedRank
from interlace.engine.group.group import Follower
from interlace.engine.group.ranks import Ranks
from interlace.engine.pipeline.view import modules_of

_JOIN_S = 600.0  # that ranks may take to load their models
_HOST = "127.0.0.1"

Opener = Callable[[], Any]  # a loaded pipeline


@dataclass(frozen=True)
class FollowerSpec:
    """What a process that follows is told: which rank it is, where the first is, how to load its pipeline."""

    rank: int
    config: GroupConfig
    device: str
    port: int
    opener: Opener


class Followers:
    """The processes of all ranks but the first. They end with this process, or with `close`."""

    def __init__(self, config: GroupConfig, devices: Sequence[str], openers: Sequence[Opener]) -> None:
        """`devices` and `openers`: one a rank, the first's too."""
        self.config = config
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine; those that follow inherit it
        self._store = _store(0, True)
        self._processes = [
            _started(FollowerSpec(rank, config, devices[rank], self._store.port, openers[rank]))
            for rank in range(1, config.world_size)
        ]
        self._device = torch.device(devices[0])

    def join(self) -> Ranks:
        """The first rank's place, once all others have theirs. Raises `RuntimeError` when one of them died."""
        return Ranks(0, self.config, self._device, self._store)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _started(spec: FollowerSpec) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-m", "interlace.engine.group.start"],
        stdin=subprocess.PIPE,
        env={**os.environ, "TQDM_DISABLE": "1", "PYTHONPATH": path},
        process_group=0,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(pickle.dumps(spec))
        process.stdin.flush()  # and open from now on: its end says that the first rank is gone
    return process


def follow(rank: int, config: GroupConfig, device: torch.device, opener: Opener, store: dist.Store) -> None:
    """The whole life of a rank that is not the first. Raises `RuntimeError` when the first is gone."""
    pipeline = opener()
    ranks = Ranks(rank, config, device, store)
    Follower(ranks, modules_of(pipeline)).run()
    ranks.leave()


def launched_store(launched: LaunchedRank) -> dist.Store:
    """Where processes that `torchrun` started meet: its own store, at its own address."""
    wait = timedelta(seconds=_JOIN_S)
    store, _, _ = next(dist.rendezvous("env://", launched.rank, launched.world_size, timeout=wait))
    store.set_timeout(wait)
    return dist.PrefixStore("interlace", store)


def _store(port: int, is_first: bool) -> dist.TCPStore:
    wait = timedelta(seconds=_JOIN_S)
    return dist.TCPStore(_HOST, port, is_master=is_first, wait_for_workers=False, timeout=wait)


def _end_with_the_first() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    """A process that follows."""
    os.dup2(2, 1)
    spec: FollowerSpec = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    with suppress(RuntimeError):  # the first rank is gone
        follow(spec.rank, spec.config, torch.device(spec.device), spec.opener, _store(spec.port, False))
    os._exit(0)


if __name__ == "__main__":
    main()
