"""A stage that draws over several ranks: this process is the first; the others are started here, or by `torchrun`."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from interlace.config import EngineConfig
from interlace.engine.accelerator import default_device
from interlace.engine.group.config import LaunchedRank
from interlace.engine.group.group import Lead
from interlace.engine.group.ranks import Ranks
from interlace.engine.group.start import Followers, follow, launched_store
from interlace.engine.pipeline.view import modules_of
from interlace.errors import InvalidRequestError
from interlace.models.loader import LoadedModel
from interlace.stages.config import OmniStageConfig
from interlace.stages.diffusion import DiffusionStage

logger = logging.getLogger("interlace.stages")

Load = Callable[[str | None], LoadedModel]  # a model on a device


class GroupStage(DiffusionStage):
    """A stage whose engine leads a group. `followers`: the processes that were started for it, if it was us."""

    def __init__(
        self, model: LoadedModel, config: EngineConfig, ranks: Ranks, followers: Followers | None = None
    ) -> None:
        """Raises `InvalidRequestError` for a model that can't be divided so."""
        self._ranks, self._followers = ranks, followers
        super().__init__(model, config, lead=Lead(ranks, modules_of(model.pipeline)))

    def describe(self) -> dict[str, object]:
        """With its ranks."""
        return {**super().describe(), "ranks": self._ranks.config.world_size}

    def close(self) -> None:
        super().close()
        if self._followers is not None:
            self._followers.close()


def open_group(config: OmniStageConfig, load: Load) -> GroupStage:
    """The stage of a config with ranks, whose processes are started here. `load` is called in each.

    Raises what `load` raises, and `InvalidRequestError`.
    """
    engine_config = group_engine_config(config.drawing_config())
    devices = _devices(config)
    followers = Followers(config.parallel, devices, [partial(_pipeline, load, device) for device in devices])
    try:
        model = load(devices[0])
        return GroupStage(model, engine_config, followers.join(), followers)
    except BaseException:
        followers.close()
        raise


def join_group(config: OmniStageConfig, load: Load, launched: LaunchedRank) -> GroupStage:
    """The stage of a config whose processes `torchrun` has started, this one among them.

    The first opens it. In all others this follows the first until its end, and raises `SystemExit` then. Raises
    `InvalidRequestError` for degrees that need another number of processes, and for replicas of such a group.
    """
    if config.replicas > 1:
        text = f"replicas is {config.replicas}, and torchrun has started one group; leave out one of the two"
        raise InvalidRequestError(text, "replicas")
    group, engine_config = launched.group(config.parallel), group_engine_config(config.drawing_config())
    kind = config.device if isinstance(config.device, str) else default_device()
    device = "cpu" if kind.startswith("cpu") else f"{kind.partition(':')[0]}:{launched.local_rank}"
    store = launched_store(launched)
    if launched.rank > 0:
        with suppress(RuntimeError):  # the first is gone
            follow(launched.rank, group, torch.device(device), partial(_pipeline, load, device), store)
        raise SystemExit(0)
    return GroupStage(load(device), engine_config, Ranks(0, group, torch.device(device), store))


def group_engine_config(config: EngineConfig) -> EngineConfig:
    """An engine's settings without what a group can't do. Raises `InvalidRequestError` for what was asked for."""
    if config.cache_type == "first_block_cache":
        raise InvalidRequestError(
            "cache_type first_block_cache remembers blocks in one process; over several ranks use step_cache, or none",
            "cache_type",
        )
    if config.resolution_tolerance:
        logger.info("over several ranks, pictures of different sizes don't share forwards: resolution_tolerance is 0")
    return replace(config, resolution_tolerance=0.0)


def _devices(config: OmniStageConfig) -> Sequence[str]:
    named = [config.device] if isinstance(config.device, str) else list(config.device or ["cpu"])
    return named * config.parallel.world_size if len(named) == 1 else named


def _pipeline(load: Load, device: str) -> Any:
    return load(device).pipeline
