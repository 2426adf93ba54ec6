"""Who may write to an output folder: one run alone, or the nodes of one run side by side, each once.

Locks are the system's (flock), which lets go when a process dies, also on a network file system where it has them.
Where there are none, nothing is guarded.
"""

import contextlib
import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from interlace.bulk.launch.partition import Partition
from interlace.errors import InvalidRequestError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_FOLDER, _GATE = ".lock", ".lock-gate"
_ORPHANS_S = 2.0  # workers whose parent was killed notice it and end


class FolderLock:
    """A hold on an output folder. Made by `alone` or `beside_others`; let go by `close` or by the process's end."""

    def __init__(self, folder: Path, files: list[io.TextIOWrapper], partition: Partition) -> None:
        self._folder, self._files, self._partition = folder, files, partition

    @classmethod
    def alone(cls, folder: Path) -> "FolderLock":
        """Raises `InvalidRequestError` where anyone else writes to the folder."""
        file = _open(folder, _FOLDER)
        if _try_lock(file, shared=False) is False:
            file.close()
            raise InvalidRequestError(f"another run is writing to {folder}; wait for it or take another folder")
        return cls(folder, [file], Partition())

    @classmethod
    def beside_others(cls, folder: Path, partition: Partition) -> "FolderLock":
        """For one node of many. Other nodes of its run may be there; this one, or a run divided otherwise, not.

        Raises `InvalidRequestError`.
        """
        deadline = time.monotonic() + _ORPHANS_S
        while True:
            try:
                return cls._join(folder, partition)
            except InvalidRequestError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    @classmethod
    def _join(cls, folder: Path, partition: Partition) -> "FolderLock":
        with contextlib.ExitStack() as undo, _gate(folder):
            file = undo.enter_context(_open(folder, _FOLDER))
            mine = undo.enter_context(_open(folder, f".lock-{partition.node_rank}"))
            if _try_lock(file, shared=False):
                file.truncate(0)
                file.write(json.dumps({"num_nodes": partition.num_nodes}))
                file.flush()
            if _try_lock(file, shared=True) is False:
                raise InvalidRequestError(f"another run is writing to {folder}; wait for it or take another folder")
            file.seek(0)
            num_nodes = json.loads(file.read() or "{}").get("num_nodes", partition.num_nodes)
            if num_nodes != partition.num_nodes:
                raise InvalidRequestError(
                    f"a run with {num_nodes} nodes is writing to {folder}, this one has {partition.num_nodes}: "
                    "they would make the same images; wait for it, or give the same --num-nodes",
                    "num_nodes",
                )
            if _try_lock(mine, shared=False) is False:
                raise InvalidRequestError(
                    f"node {partition.node_rank} of {num_nodes} is writing to {folder} already; wait for it, or give "
                    "each node its own --node-rank",
                    "node_rank",
                )
            undo.pop_all()
            return cls(folder, [file, mine], partition)

    @contextlib.contextmanager
    def as_last(self) -> Iterator[bool]:
        """Whether no other node writes now. If so nobody can begin inside this context; if not, this node lets go."""
        if self._partition.num_nodes > 1 and fcntl is None:
            yield False
            return
        with _gate(self._folder):
            last = _try_lock(self._files[0], shared=False)
            if last is None:  # no locks here: nobody can know
                last = self._partition.num_nodes == 1
            if not last:
                self.close()
            yield last

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Inherited by workers, these hold the folder for as long as any of them lives."""
        return tuple(file.fileno() for file in self._files)

    def close(self) -> None:
        for file in self._files:
            file.close()


def _open(folder: Path, name: str) -> io.TextIOWrapper:
    return (folder / name).open("a+", encoding="utf-8")


@contextlib.contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """One process at a time may come or go; held for moments, or while results are put together."""
    with _open(folder, _GATE) as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(file: io.TextIOWrapper, *, shared: bool) -> bool | None:
    """None where the file system has no locks. A lock that was held before may be lost."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        logger.debug("%s has no locks; not guarding against a second run", file.name)
        return None
    return True
