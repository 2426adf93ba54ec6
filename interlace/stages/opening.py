"""Opens stages and pipelines of them. A new kind of stage is one file and one line of `STAGES`."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from interlace.config import EngineConfig
from interlace.engine.group.config import GroupConfig, launched_rank
from interlace.errors import InvalidRequestError
from interlace.extras import split_extras
from interlace.models.loader import LoadedModel, load_model
from interlace.models.optimize import Optimizations, chosen
from interlace.request import set_fields
from interlace.stages.config import LOAD_OPTIONS, OmniStageConfig
from interlace.stages.diffusion import DiffusionStage
from interlace.stages.flow.link import Link
from interlace.stages.flow.slots import Slots
from interlace.stages.group import join_group, open_group
from interlace.stages.handoff import resolve
from interlace.stages.pipeline import Pipeline
from interlace.stages.prompt_caches import PromptCaches
from interlace.stages.replicas.opening import open_replicas
from interlace.stages.stage import Stage


def open_pipeline(configs: Sequence[OmniStageConfig], caches: PromptCaches) -> Pipeline:
    """Loads all stages of checked configs, or none. Raises `ModelLoadError` or `InvalidRequestError`."""
    handoffs = [None if one.handoff is None else resolve(one.handoff) for one in configs]
    stages = _all_or_none(configs, lambda config: open_stage(config, caches))
    limits = [_limit(config, len(configs)) for config in configs]
    return Pipeline([Link(*parts) for parts in zip(configs, stages, handoffs, map(Slots, limits), strict=True)])


def over_model(model: LoadedModel, options: Mapping[str, Any], caches: PromptCaches, num_workers: int) -> Pipeline:
    """One stage over a model that is loaded. `options` are fields of `EngineConfig`."""
    config = OmniStageConfig(stage_id=0, stage_type="diffusion", model=model.name, engine_args=dict(options))
    stage = DiffusionStage(model, EngineConfig(**options), num_workers)
    caches.share(stage.engine)
    return Pipeline([Link(config, stage, None, Slots(None))])


def model_in_processes(
    model: str | Path | LoadedModel,
    options: Mapping[str, object],
    device: str | None,
    replicas: int,
    parallel: GroupConfig | None,
) -> OmniStageConfig:
    """One stage of a model by its name, in processes. Raises `InvalidRequestError` for one that is loaded here."""
    if isinstance(model, LoadedModel):
        raise InvalidRequestError(
            f"model is {model.name!r}, loaded in this process; give its name or directory for replicas to load it",
            "model",
        )
    return OmniStageConfig(
        stage_id=0,
        stage_type="diffusion",
        model=str(model),
        engine_args=dict(options),
        device=device,
        replicas=replicas,
        parallel=parallel or GroupConfig(),
    )


def open_stage(config: OmniStageConfig, caches: PromptCaches | None = None) -> Stage:
    """Loads what a config says, here or in processes. Raises `ModelLoadError` or `InvalidRequestError`.

    In a process that `torchrun` started, a group is what it started, and all but the first end here: see `join_group`.
    """
    launched = launched_rank(os.environ)
    if launched is not None and config.parallel.world_size > 1:
        return join_group(config, partial(_loaded, config), launched)
    if config.in_processes:
        return open_replicas(config, open_replica)
    return STAGES["remote" if config.remote else config.stage_type](config, 0, caches)


def open_replica(config: OmniStageConfig) -> Stage:
    """One replica of a stage, in the process that is for it."""
    if config.parallel.world_size > 1:
        return open_group(config, partial(_loaded, config))
    return STAGES[config.stage_type](config, 0, None)


def _all_or_none(items: Sequence[Any], open_one: Callable[[Any], Stage]) -> list[Stage]:
    opened: list[Stage] = []
    try:
        for item in items:
            opened.append(open_one(item))
    except BaseException:
        for stage in opened:
            stage.close()
        raise
    return opened


def _limit(config: OmniStageConfig, num_stages: int) -> int | None:
    """A stage alone has a queue of its own, whose order is for its scheduler to decide."""
    alone = num_stages == 1 and config.stage_type == "diffusion"
    return config.max_in_flight if alone else config.limit


def _diffusion(config: OmniStageConfig, replica: int, caches: PromptCaches | None) -> Stage:
    stage = DiffusionStage(_loaded(config, config.device_of(replica)), config.drawing_config())
    if caches is not None:
        caches.share(stage.engine)
    return stage


def _loaded(config: OmniStageConfig, device: str | None) -> LoadedModel:
    """The model of a stage that draws, with the stage's scheduler and defaults."""
    load = {name: config.engine_args[name] for name in LOAD_OPTIONS if name in config.engine_args}
    if isinstance(load.get("optimizations"), str):
        load["optimizations"] = Optimizations(names=tuple(load["optimizations"].replace(",", " ").split()))
    invariant = config.engine_args.get("batch_invariant")
    load["optimizations"] = chosen(load.get("optimizations"), batch_invariant=invariant)
    extras, _ = split_extras(config.engine_args)
    if config.dit_config.scheduler is not None:
        extras = replace(extras, scheduler=config.dit_config.scheduler)
    model = load_model(config.model, device=device, extras=extras, **load)
    takes = inspect.signature(model.pipeline.__call__).parameters
    own = {name: value for name, value in set_fields(config.sampling()).items() if name in takes}
    return replace(model, defaults={**model.defaults, **own})


def _language(config: OmniStageConfig, replica: int, caches: PromptCaches | None) -> Stage:
    from interlace.stages.omni.families import seeing_stage

    if (seeing := seeing_stage(config)) is not None:
        return _omni(seeing, replica, caches)
    from interlace.stages.language.local import LocalARStage

    return LocalARStage(config, replica)


def _remote(config: OmniStageConfig, replica: int, caches: PromptCaches | None) -> Stage:
    from interlace.stages.language.remote import RemoteARStage

    return RemoteARStage(config)


def _omni(config: OmniStageConfig, replica: int, caches: PromptCaches | None) -> Stage:
    from interlace.stages.omni.stage import OmniModelStage

    return OmniModelStage(config, replica)


STAGES: dict[str, Callable[[OmniStageConfig, int, PromptCaches | None], Stage]] = {
    "diffusion": _diffusion,
    "ar": _language,
    "omni": _omni,
    "remote": _remote,
}
