"""A request's fields over several stages: whose each one is. Knows nothing of HTTP beyond its errors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from interlace.request import ARSamplingParams, Request, SamplingParams, fields_of
from interlace.serve.http.errors import invalid
from interlace.serve.jobs.models import Lane
from interlace.stages.config import OmniStageConfig
from interlace.stages.parse import kind_of

StageParts = Sequence[Mapping[str, Any]]


def staged(request: Request, lane: Lane, parts: StageParts = ()) -> Request:
    """A request for the lane's last stage that draws, with what the others do for it.

    Stages that draw before it share size and priority; `parts` says more, one dict a stage: language models' sampling,
    and prompts of their own. Seeds are left to be the request's.
    """
    configs = lane.omni.configs
    if len(configs) == 1:
        return request
    told = parts or [{} for _ in configs]
    stages = {
        config.stage_id: _at(config, request, lane, part)
        for config, part in zip(configs, told, strict=True)
        if config.stage_id != lane.stage or "prompt" in part
    }
    return replace(request, stages=stages)


def _at(config: OmniStageConfig, request: Request, lane: Lane, part: Mapping[str, Any]) -> Request:
    drawing = request.drawing
    sampling: SamplingParams | ARSamplingParams
    if kind_of(config) is ARSamplingParams:
        sampling = ARSamplingParams(**{name: value for name, value in part.items() if name != "prompt"})
    elif config.stage_id == lane.stage:
        sampling = replace(drawing, seed=None, num_images=1)
    else:
        sampling = SamplingParams(height=drawing.height, width=drawing.width, priority=drawing.priority)
    return replace(request, prompt=part.get("prompt", request.prompt), sampling=sampling)


def stage_args_of(stage_args: StageParts | None, lane: Lane) -> tuple[dict[str, object], list[dict[str, object]]]:
    """One dict a stage as the order's own fields (the prompt, and what the last stage gets) and each stage's part.

    Raises `ApiError` where their number doesn't fit, or for what a stage on the way takes no orders for.
    """
    if not stage_args:
        return {}, []
    configs = lane.omni.configs
    if len(stage_args) != len(configs):
        text = f"stage_args has {len(stage_args)} dicts; this server runs {len(configs)} stages: give one a stage"
        raise invalid(text, "stage_args")
    if len(configs) == 1:
        return dict(stage_args[0]), []
    parts = [_part(config, args) for config, args in zip(configs[:-1], stage_args[:-1], strict=True)]
    own = dict(stage_args[-1])
    parts.append({"prompt": own.pop("prompt")} if "prompt" in own else {})
    if "prompt" in stage_args[0]:
        own["prompt"] = stage_args[0]["prompt"]
    for part in parts:
        if part.get("prompt") == own.get("prompt"):  # which holds for all stages
            part.pop("prompt", None)
    return own, parts


def _part(config: OmniStageConfig, args: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage before the last is told: its prompt, and a language model its sampling."""
    kind = kind_of(config)
    known = fields_of(kind) if kind is ARSamplingParams else frozenset[str]()
    given = sorted(args.keys() - known - {"prompt"})
    if given:
        text = f"{', '.join(given)}; expected {', '.join(sorted(known)) or 'nothing but the prompt'}"
        raise invalid(f"stage_args of stage {config.stage_id}: {text}", "stage_args")
    return dict(args)
