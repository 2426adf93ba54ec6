"""Which sampling parameters a request has at each stage. Knows nothing of torch or of running stages."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams
from interlace.stages.ar_config import ARSamplingParams
from interlace.stages.config import OmniStageConfig, build

StageParams = SamplingParams | ARSamplingParams
Given = StageParams | Mapping[int, StageParams] | Sequence[StageParams | None] | None
AR_FIELDS = frozenset(f.name for f in fields(ARSamplingParams))


def given_for(given: Given, stages: Sequence[OmniStageConfig], index: int) -> StageParams | None:
    """A user's parameters for one stage: one for all stages that it fits, one a stage, or by stage id.

    Raises `InvalidRequestError` when their number or kind doesn't fit.
    """
    if isinstance(given, Sequence):
        if len(given) != len(stages):
            raise InvalidRequestError(
                f"sampling_params has {len(given)} items for {len(stages)} stages; expected one a stage or None",
                "sampling_params",
            )
        given = dict(enumerate(item for item in given))  # type: ignore[misc]
    expected = SamplingParams if stages[index].stage_type == "diffusion" else ARSamplingParams
    if isinstance(given, Mapping):
        found = given.get(index)
        if found is not None and not isinstance(found, expected):
            raise InvalidRequestError(
                f"sampling_params of stage {index} are {type(found).__name__}; expected {expected.__name__}",
                "sampling_params",
            )
        return found
    return given if isinstance(given, expected) else None


def resolve(config: OmniStageConfig, given: StageParams | None, own: Mapping[str, Any]) -> StageParams:
    """The stage's defaults, over them what the user gave, over that the fields of the request itself.

    Raises `InvalidRequestError` for a value that makes no sense.
    """
    values = {**set_fields(config.sampling()), **(set_fields(given) if given is not None else {})}
    if config.stage_type == "ar":
        return build(ARSamplingParams, {**values, **{k: v for k, v in own.items() if k in AR_FIELDS}}, "the request")
    return build(SamplingParams, values, "the request")


def with_seed(params: StageParams, seed: int) -> StageParams:
    """A request has one seed at all its stages, unless a stage has its own."""
    return params if params.seed is not None else replace(params, seed=seed)


def set_fields(params: StageParams) -> dict[str, Any]:
    """What is not left to defaults, by name."""
    empty = type(params)()
    return {
        f.name: getattr(params, f.name) for f in fields(params) if getattr(params, f.name) != getattr(empty, f.name)
    }
