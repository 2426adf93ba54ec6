"""Opens a stage's replicas: one process each, on devices of its own. What a stage is, others know."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from interlace.engine.visible import accelerators
from interlace.stages.config import OmniStageConfig
from interlace.stages.replicas.choice import num_cores
from interlace.stages.replicas.front import DrawingReplicas
from interlace.stages.replicas.placement import placements
from interlace.stages.replicas.processes.process import ReplicaSpec
from interlace.stages.replicas.replicas import ReplicaStage

Opener = Callable[[OmniStageConfig], Any]


def open_replicas(config: OmniStageConfig, opener: Opener) -> ReplicaStage:
    """`opener(config)`, in each process, makes the stage: it must be importable there. Raises what it raises."""
    where = placements(
        config.replicas, config.parallel.world_size, config.device, accelerators(os.environ), num_cores(os.environ)
    )
    single = replace(config, replicas=1)
    specs = [
        ReplicaSpec(
            opener=partial(opener, replace(single, device=_plain(one.devices))),
            name=f"{config.model} replica {index}",
            environment=one.environment,
        )
        for index, one in enumerate(where)
    ]
    return DrawingReplicas(specs, config.drawing_config()) if config.stage_type == "diffusion" else ReplicaStage(specs)


def _plain(devices: tuple[str | None, ...]) -> Any:
    return devices[0] if len(devices) == 1 else devices
