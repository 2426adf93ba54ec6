"""The module calls that one request makes, as the engine sees them: what there is to measure and to simulate."""

import inspect
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from diffusers import DiffusionPipeline

from interlace.bench.load.workloads import make_requests
from interlace.config import EngineConfig
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.outcome import Outcome
from interlace.engine.loop import EngineCore
from interlace.engine.pipeline.ambient import Ambient
from interlace.engine.ticket import Ticket
from interlace.errors import EngineClosedError
from interlace.models.loader import LoadedModel


def calls_of(pipeline: DiffusionPipeline, kwargs: Mapping[str, object]) -> list[ModuleCall]:
    """Every call that can be shared, in order. Raises what the pipeline raises."""
    core = EngineCore(pipeline, EngineConfig())
    seen: list[ModuleCall] = []
    run = core.executor.run

    def recorded(calls: Sequence[ModuleCall], ambients: Sequence[Ambient]) -> list[Outcome]:
        seen.extend(calls)
        return run(calls, ambients)

    core.executor.run = recorded  # type: ignore[method-assign]
    ticket = Ticket("profile", kwargs, Ambient(0), Future())
    core.add([ticket])
    try:
        with torch.no_grad():
            while core.step() is not None:
                pass
    finally:
        core.close(EngineClosedError("profiled"))
    if (error := ticket.future.exception()) is not None:
        raise error
    return [call for call in seen if not call.unfusable]


def short_request(model: LoadedModel, height: int, width: int, steps: int = 2) -> dict[str, Any]:
    """Arguments of one plain request of that size, for models that draw and for those that edit."""
    takes_image = "image" in inspect.signature(model.pipeline.__call__).parameters
    kwargs = make_requests(model, "edit" if takes_image else "uniform", 1, 0)[0]
    if takes_image:
        kwargs["image"] = kwargs["image"].resize((width, height))
    return kwargs | {"height": height, "width": width, "num_inference_steps": steps}


def one_call_of_each(model: LoadedModel, height: int, width: int) -> list[ModuleCall]:
    """The first call of every shape that one request makes."""
    found: dict[str, ModuleCall] = {}
    for call in calls_of(model.pipeline, short_request(model, height, width)):
        found.setdefault(call.shape, call)
    return list(found.values())
