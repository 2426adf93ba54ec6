"""Who holds an OpenMP team: the threads that libgomp keeps for each thread that ran a parallel operation of torch.

As soon as all teams together have more threads than there are cores, libgomp stops spinning between parallel regions,
and every forward takes up to twice as long. So whoever is done gives its team back, and helpers never make one.
Knows nothing of engines. With another OpenMP runtime nothing is done.
"""

import ctypes
import functools
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch

_SOFT = 1  # omp_pause_soft: the next parallel region makes a new team
_FUTEX = {"x86_64": 202, "aarch64": 98}


def release_team() -> None:
    """Give back the calling thread's team. Its next parallel operation makes another one, in some 0.1 ms a core."""
    library = _libgomp()
    if library is not None:
        library.omp_pause_resource_all(_SOFT)


def run_alone() -> None:
    """From now on the calling thread runs torch's operations by itself: for workers, beside an engine's thread."""
    library = _libgomp()
    if library is not None:
        torch.get_num_threads()  # torch sets a thread's number at its first use: before, not after
        library.omp_set_num_threads(1)
        library.omp_pause_resource_all(_SOFT)


def describe_threads() -> dict[str, int | str]:
    """The process's threads, and how many teams of torch's OpenMP wait for work ("unknown" where nobody can tell)."""
    found: dict[str, int | str] = {"python": threading.active_count(), "torch": torch.get_num_threads()}
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        found["all"] = sum(1 for _ in tasks.iterdir())
    teams = num_teams()
    found["teams"] = "unknown" if teams is None else teams
    return found


def num_teams() -> int | None:
    """How many threads of this process hold a team whose members wait for work; None where that can't be seen.

    The members of a team wait at one address (its dock), in a system call that libgomp makes itself.
    """
    spans, futex = _spans(), _FUTEX.get(os.uname().machine) if hasattr(os, "uname") else None
    if _libgomp() is None or futex is None:
        return None
    masters = {str(thread.native_id) for thread in threading.enumerate()}
    docks = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            words = (task / "syscall").read_text(encoding="ascii").split()
        except FileNotFoundError:
            continue  # it has ended
        except OSError:
            return None
        if task.name in masters or words[0] != str(futex):
            continue
        if any(start <= int(words[-1], 16) < end for start, end in spans):
            docks.add(words[1])
    return len(docks)


@functools.cache
def _libgomp() -> Any:
    """The libgomp that torch runs on; None where it runs on something else."""
    own = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not sys.platform.startswith("linux") or not own.is_file():
        return None
    for library in (
        ctypes.CDLL(None),
        ctypes.CDLL(str(own)),
    ):  # what was preloaded comes first
        try:
            place = ctypes.cast(library.omp_pause_resource_all, ctypes.c_void_p).value or 0
        except AttributeError:  # none here, or one from before 2019
            continue
        return library if any(start <= place < end for start, end in _spans()) else None
    return None


@functools.cache
def _spans() -> tuple[tuple[int, int], ...]:
    """Where in memory the code of libgomp lies."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, *_, name = line.split(maxsplit=5)
        if Path(name).name.startswith("libgomp"):
            start, _, end = addresses.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return tuple(found)
