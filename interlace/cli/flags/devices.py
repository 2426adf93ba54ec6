"""Flags that put one model on several devices: replicas, and groups of ranks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from cyclopts import Parameter

from interlace.checks import check_number
from interlace.cli.flags.shared import NodeGroup
from interlace.engine.group.config import GroupConfig, launched_rank, xdit_degrees
from interlace.engine.visible import accelerators
from interlace.errors import InvalidRequestError
from interlace.stages.replicas.choice import choose_replicas


@Parameter(name="*", group=NodeGroup)
@dataclass(frozen=True, kw_only=True)
class GroupFlags:
    """One model over several processes that compute its forwards together: for less latency, at the cost of traffic."""

    rows_degree: int = 1
    """Divide every forward's rows among so many processes or GPUs: any model; also the two halves of guidance."""
    ulysses_degree: int = 1
    """Divide every row's tokens among so many, by Ulysses attention: models for which diffusers has a plan (FLUX,
    FLUX.2, Qwen-Image, Wan, LTX)."""
    ring_degree: int = 1
    """The same by ring attention; GPUs only, with an attention backend that returns the log-sum-exp."""
    group_timeout_s: float = 120.0
    """Seconds that one of them may let the others wait before all are started again."""

    def config(self, backend: str = "diffusers", environment: Mapping[str, str] = os.environ) -> GroupConfig:
        """The group that is asked for. The backend xdit is asked by the variables DG_XDIT_*; flags win. Where
        `torchrun` has started several processes, they are the group.

        Raises `InvalidRequestError`, also for PipeFusion.
        """
        asked = xdit_degrees(environment).group if backend == "xdit" else GroupConfig()
        own = {
            name: getattr(self, name)
            for name in ("rows_degree", "ulysses_degree", "ring_degree")
            if getattr(self, name) != 1
        }
        wanted = replace(asked, timeout_s=self.group_timeout_s, **own)
        launched = launched_rank(environment)
        return wanted if launched is None else launched.group(wanted)


@Parameter(name="*", group=NodeGroup)
@dataclass(frozen=True, kw_only=True)
class ReplicaFlags:
    """How many copies of a model one server runs, each in a process of its own."""

    num_gpus: int | None = None
    """Run a replica on each of so many GPUs; with --ulysses-degree and the like, one on each group of them."""
    replicas: int | Literal["auto"] | None = None
    """Run so many replicas of the model, each in a process of its own; CPU threads are divided among them. auto: one a
    GPU; on a CPU as many as `python bench/replicas.py --keep` measured to be quicker here, else one."""

    def count(self, group: GroupConfig, model: str = "") -> int:
        """Replicas of `group`. Raises `InvalidRequestError` where the flags contradict each other."""
        for name in ("num_gpus", "replicas"):
            if getattr(self, name) not in (None, "auto"):
                check_number(name, getattr(self, name), 1, whole=True)
        if self.num_gpus is None:
            if self.replicas == "auto":
                return choose_replicas(model, len(accelerators(os.environ).names), group.world_size)
            return self.replicas or 1
        if self.num_gpus % group.world_size:
            raise InvalidRequestError(
                f"num_gpus is {self.num_gpus}, which groups of {group.world_size} don't divide; "
                f"try {self.num_gpus // group.world_size * group.world_size or group.world_size}",
                "num_gpus",
            )
        found = self.num_gpus // group.world_size
        if self.replicas not in (None, "auto", found):
            raise InvalidRequestError(
                f"--num-gpus {self.num_gpus} makes {found} replicas, --replicas says {self.replicas}; leave out one",
                "replicas",
            )
        return found
