"""Opens what makes a bulk run's images: replicas of one model in actors, seen as an `Omni`.

Rows go to whichever replica will be done first, a few beyond what it works on; the rest wait here. Replicas that come
later, or in the place of dead ones, get theirs from then on.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from interlace import __version__
from interlace.bulk.generator import OmniGenerator
from interlace.errors import InvalidRequestError
from interlace.extras import split_extras
from interlace.models.editing import EditModel
from interlace.models.loader import load_editor
from interlace.omni import Omni
from interlace.ray.cluster import Fleet
from interlace.ray.replica import ActorSpec
from interlace.stages.config import LOAD_OPTIONS, OmniStageConfig
from interlace.stages.diffusion import DiffusionStage
from interlace.stages.flow.link import Link
from interlace.stages.flow.slots import Slots
from interlace.stages.opening import model_in_processes, open_replica
from interlace.stages.pipeline import Pipeline
from interlace.stages.replicas.front import DrawingReplicas
from interlace.stages.stage import Stage


def fleet_generator(
    model: str, options: Mapping[str, Any], fleet: Fleet, edit: EditModel | None = None
) -> OmniGenerator:
    """What makes a bulk run's images, by the model's name; `options` as `Omni` takes them.

    Raises `ModelLoadError` or `InvalidRequestError`.
    """
    own = {name: value for name, value in options.items() if name != "device"}
    config = model_in_processes(model, own, options.get("device"), 1, None)
    return OmniGenerator(open_fleet(config, fleet, edit), edit)


def open_fleet(config: OmniStageConfig, fleet: Fleet, edit: EditModel | None = None) -> Omni:
    """Replicas of a stage that draws, or with `edit` of one that edits; returns as soon as the first of them is open.

    This process must have joined a cluster. Raises `ModelLoadError` or `InvalidRequestError`, as the replicas do.
    """
    plain = partial(open_replica, config) if edit is None else partial(open_editor, config, edit)
    return over_fleet(config, fleet, partial(open_here, __version__, plain))


def over_fleet(config: OmniStageConfig, fleet: Fleet, opener: Callable[[], object]) -> Omni:
    """As `open_fleet`, of stages that `opener` makes, which must be importable in the actors."""
    drawing = config.drawing_config()
    specs = [
        ActorSpec(
            opener=opener,
            name=f"{config.model} replica {index}",
            max_live=drawing.max_num_seqs + max(drawing.max_num_seqs // 4, 1),
            fleet=fleet,
        )
        for index in range(fleet.num_replicas)
    ]
    stage = DrawingReplicas(specs, drawing, num_needed=1)
    return Omni(Pipeline([Link(config, stage, None, Slots(None))]))


def open_here(version: str, opener: Callable[[], Stage]) -> Stage:
    """In the actor. Raises `InvalidRequestError` where the node has another version than the driver."""
    if version != __version__:
        raise InvalidRequestError(
            f"a node of the cluster has interlace {__version__}, the command {version}; install the same everywhere"
        )
    return opener()


def open_editor(config: OmniStageConfig, edit: EditModel) -> Stage:
    """In the actor: the stage of a config whose model edits. Raises `ModelLoadError` or `InvalidRequestError`."""
    load: dict[str, Any] = {name: config.engine_args[name] for name in LOAD_OPTIONS if name in config.engine_args}
    load["batch_invariant"] = config.engine_args.get("batch_invariant")
    extras, _ = split_extras(config.engine_args)
    return DiffusionStage(
        load_editor(config.model, edit, device=config.device_of(0), extras=extras, **load), config.drawing_config()
    )
