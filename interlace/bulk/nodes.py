"""Which node of how many this is, and which processes run on it: from flags, or from what a scheduler put into the
environment (SkyPilot, Kubernetes, Slurm)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from interlace.bulk.flags import NodeFlags
from interlace.bulk.shards import Shard
from interlace.errors import InvalidRequestError


@dataclass(frozen=True, kw_only=True)
class Placement:
    """This node among its like. `devices` has one entry a process, or is empty where they use no GPUs of their own."""

    node_rank: int = 0
    num_nodes: int = 1
    num_processes: int = 1
    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what a user should know of how this was found

    @property
    def has_workers(self) -> bool:
        return self.num_processes > 1 or bool(self.devices)

    @property
    def is_alone(self) -> bool:
        return self.num_nodes == 1 and not self.has_workers

    @property
    def node(self) -> Shard:
        """All rows of this node."""
        return self.shard(0, 1)

    def shard(self, process: int, num_processes: int) -> Shard:
        return Shard(node_rank=self.node_rank, num_nodes=self.num_nodes, process=process, num_processes=num_processes)


def place(flags: NodeFlags, device: str | None = None, environment: Mapping[str, str] = os.environ) -> Placement:
    """Raises `InvalidRequestError` for numbers that can't be, or where one of rank and count is not to be found."""
    rank, count, notes = flags.node_rank, flags.num_nodes, []
    if rank is None and count == 1:
        rank = 0
    if rank is None or count is None:
        found = _scheduler(environment)
        rank = found.rank if rank is None else rank
        count = found.count if count is None else count
        if found.rank is not None and count != 1:
            notes.append(f"node {rank} of {count} ({found.name})")
        if found.note:
            notes.append(found.note)
    rank, count = _checked(rank, count)
    devices = _devices(flags, device, environment)
    num_processes = flags.num_processes or len(devices) or 1
    if flags.num_processes is not None and flags.num_processes < 1:
        raise InvalidRequestError(f"num_processes is {flags.num_processes}; expected at least 1", "num_processes")
    return Placement(
        node_rank=rank,
        num_nodes=count,
        num_processes=num_processes,
        devices=tuple(devices[process % len(devices)] for process in range(num_processes)) if devices else (),
        notes=tuple(notes),
    )


def _checked(rank: int | None, count: int | None) -> tuple[int, int]:
    if rank is None and count in (None, 1):
        return 0, 1
    if rank is None:
        raise InvalidRequestError(
            f"--num-nodes is {count} and nothing says which node this is; give --node-rank 0 to {(count or 1) - 1}",
            "node_rank",
        )
    if count is None:
        raise InvalidRequestError(
            f"this is node {rank} and nothing says of how many; give --num-nodes "
            "(in a Kubernetes job: set JOB_COMPLETIONS), or --num-nodes 1 for all rows",
            "num_nodes",
        )
    if count < 1:
        raise InvalidRequestError(f"num_nodes is {count}; expected at least 1", "num_nodes")
    if not 0 <= rank < count:
        raise InvalidRequestError(
            f"node_rank is {rank}; expected 0 to {count - 1}, as there are {count} nodes", "node_rank"
        )
    return rank, count


_SRUN = {"SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS"}


@dataclass(frozen=True)
class _Scheduler:
    name: str = ""
    rank: int | None = None
    count: int | None = None
    note: str = ""


def _scheduler(environment: Mapping[str, str]) -> _Scheduler:
    """What the environment says. SkyPilot comes first: it runs on top of the other two."""

    def pair(name: str, rank: str, count: str) -> _Scheduler:
        return _Scheduler(name, _whole(environment, rank), _whole(environment, count))

    if "SKYPILOT_NODE_RANK" in environment:
        return pair("from SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES")
    if "JOB_COMPLETION_INDEX" in environment:
        return pair("from Kubernetes", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
    # A batch script runs once, on the first node, with the variables of the whole job; srun starts one process a task.
    if "SLURM_JOB_ID" in environment and not _SRUN & set(environment):
        several = max(_whole(environment, name) or 1 for name in ("SLURM_NNODES", "SLURM_NTASKS"))
        note = "in a Slurm job but not started by srun: this process makes all rows; `srun interlace ...` divides them"
        return _Scheduler(note=note if several > 1 else "")
    if "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        return pair("from Slurm, one a task", "SLURM_PROCID", "SLURM_NTASKS")
    if "SLURM_NODEID" in environment and "SLURM_NNODES" in environment:
        return pair("from Slurm", "SLURM_NODEID", "SLURM_NNODES")
    return _Scheduler()


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise InvalidRequestError(f"the variable {name} is {text!r}; expected a whole number", "node_rank")
    return int(text)


def _devices(flags: NodeFlags, device: str | None, environment: Mapping[str, str]) -> list[str]:
    """The GPUs of this node's processes, as CUDA_VISIBLE_DEVICES names them."""
    if flags.num_gpus is None:
        return []
    if device not in (None, "cuda"):
        raise InvalidRequestError(
            f"--num-gpus {flags.num_gpus} and --device {device} exclude each other; leave out one",
            "num_gpus",
        )
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    known = [str(number) for number in range(_count_gpus())] if visible is None else _names(visible)
    if not 1 <= flags.num_gpus <= len(known):
        expected = f"expected 1 to {len(known)}, as many as are there" if known else "there is none here"
        hint = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        raise InvalidRequestError(
            f"num_gpus is {flags.num_gpus}; {expected}{hint}; on a CPU --num-processes starts several", "num_gpus"
        )
    return known[: flags.num_gpus]


def _names(visible: str) -> list[str]:
    return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()
