"""Which node of how many this is, and which processes run on it: from flags, or from what a scheduler put into the
environment (SkyPilot, Kubernetes, Slurm)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from interlace.bulk.launch.partition import Partition
from interlace.engine.group.config import launched_rank, xdit_degrees
from interlace.engine.visible import Accelerators, accelerators
from interlace.errors import InvalidRequestError


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """Which part of the rows this command makes, and by how many processes."""

    node_rank: int | None = None
    """Which of the nodes this is, from 0; by default what SkyPilot, Kubernetes or Slurm say."""
    num_nodes: int | None = None
    """How many nodes share the rows and the output folder; each row belongs to one of them, by its id."""
    num_gpus: int | None = None
    """Run one process on each of so many GPUs."""
    num_processes: int | None = None
    """Run so many processes, each with its own model; CPU threads are divided among them."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """This node among its like. `devices` has one entry a process, as the environment's `variable` names them, or is
    empty where they use no GPUs of their own."""

    node_rank: int = 0
    num_nodes: int = 1
    num_processes: int = 1
    devices: tuple[str, ...] = ()
    variable: str = Accelerators().variable
    notes: tuple[str, ...] = ()  # what a user should know of how this was found

    @property
    def has_workers(self) -> bool:
        return self.num_processes > 1 or bool(self.devices)

    @property
    def is_alone(self) -> bool:
        return self.num_nodes == 1 and not self.has_workers

    @property
    def node(self) -> Partition:
        """All rows of this node."""
        return self.partition(0, 1)

    def in_groups(self, size: int) -> "Placement":
        """With `size` GPUs a process instead of one. Raises `InvalidRequestError` where that doesn't come out even."""
        if size == 1 or not self.devices:
            return self
        if len(self.devices) % size:
            raise InvalidRequestError(
                f"num_gpus is {len(self.devices)}, which groups of {size} ranks don't divide", "num_gpus"
            )
        groups = [",".join(self.devices[i : i + size]) for i in range(0, len(self.devices), size)]
        return replace(self, num_processes=len(groups), devices=tuple(groups))

    def partition(self, process: int, num_processes: int) -> Partition:
        return Partition(
            node_rank=self.node_rank, num_nodes=self.num_nodes, process=process, num_processes=num_processes
        )


def place(flags: NodeSettings, device: str | None = None, environment: Mapping[str, str] = os.environ) -> Placement:
    """Raises `InvalidRequestError` for numbers that can't be, or where one of rank and count is not to be found."""
    rank, count, notes = flags.node_rank, flags.num_nodes, []
    if rank is None and count == 1:
        rank = 0
    if rank is None or count is None:
        if (launched := launched_rank(environment)) is not None:
            number = launched.world_size
            text = f"torchrun has started {number} processes, and each would make every row"
            raise InvalidRequestError(
                f"{text}; start one alone, with --num-gpus {number} or --backend xdit", "num_gpus"
            )
        found = _scheduler(environment)
        rank = found.rank if rank is None else rank
        count = found.count if count is None else count
        if found.rank is not None and count != 1:
            notes.append(f"node {rank} of {count} ({found.name})")
        if found.note:
            notes.append(found.note)
    rank, count = _checked(rank, count)
    found_here = accelerators(environment) if flags.num_gpus is not None else Accelerators()
    devices = _devices(flags, device, found_here, environment)
    num_processes = flags.num_processes or len(devices) or 1
    if flags.num_processes is not None and flags.num_processes < 1:
        raise InvalidRequestError(f"num_processes is {flags.num_processes}; expected at least 1", "num_processes")
    return Placement(
        node_rank=rank,
        num_nodes=count,
        num_processes=num_processes,
        devices=tuple(devices[process % len(devices)] for process in range(num_processes)) if devices else (),
        variable=found_here.variable,
        notes=tuple(notes),
    )


def xdit_nodes(flags: NodeSettings, environment: Mapping[str, str]) -> NodeSettings:
    """DG_XDIT_DATA_PARALLEL_DEGREE as processes, where no flag says how many. Raises `InvalidRequestError`."""
    degrees = xdit_degrees(environment)
    if degrees.replicas == 1 or flags.num_gpus is not None or flags.num_processes is not None:
        return flags
    if accelerators(environment).names:
        return replace(flags, num_gpus=degrees.replicas * degrees.group.world_size)
    return replace(flags, num_processes=degrees.replicas)


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
class _ClusterScheduler:
    name: str = ""
    rank: int | None = None
    count: int | None = None
    note: str = ""


def _scheduler(environment: Mapping[str, str]) -> _ClusterScheduler:
    """What the environment says. SkyPilot comes first: it runs on top of the other two."""

    def pair(name: str, rank: str, count: str) -> _ClusterScheduler:
        return _ClusterScheduler(name, _whole(environment, rank), _whole(environment, count))

    if "SKYPILOT_NODE_RANK" in environment:
        return pair("from SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES")
    if "JOB_COMPLETION_INDEX" in environment:
        return pair("from Kubernetes", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
    # A batch script runs once, on the first node, with the variables of the whole job; srun starts one process a task.
    if "SLURM_JOB_ID" in environment and not _SRUN & set(environment):
        several = max(_whole(environment, name) or 1 for name in ("SLURM_NNODES", "SLURM_NTASKS"))
        note = "in a Slurm job but not started by srun: this process makes all rows; `srun interlace ...` divides them"
        return _ClusterScheduler(note=note if several > 1 else "")
    if "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        return pair("from Slurm, one a task", "SLURM_PROCID", "SLURM_NTASKS")
    if "SLURM_NODEID" in environment and "SLURM_NNODES" in environment:
        return pair("from Slurm", "SLURM_NODEID", "SLURM_NNODES")
    return _ClusterScheduler()


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise InvalidRequestError(f"the variable {name} is {text!r}; expected a whole number", "node_rank")
    return int(text)


def _devices(
    flags: NodeSettings, device: str | None, found: Accelerators, environment: Mapping[str, str]
) -> Sequence[str]:
    """The GPUs of this node's processes."""
    if flags.num_gpus is None:
        return []
    if device not in (None, found.kind):
        raise InvalidRequestError(
            f"--num-gpus {flags.num_gpus} and --device {device} exclude each other; leave out one",
            "num_gpus",
        )
    known = found.names
    if not 1 <= flags.num_gpus <= len(known):
        expected = f"expected 1 to {len(known)}, as many as are there" if known else "there is none here"
        hint = found.given(environment)
        raise InvalidRequestError(
            f"num_gpus is {flags.num_gpus}; {expected}{hint}; on a CPU --num-processes starts several", "num_gpus"
        )
    return known[: flags.num_gpus]
