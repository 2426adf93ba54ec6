"""Samplers by name: what A1111 and diffusers call them, as a scheduler over the model's own noise schedule."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers import DiffusionPipeline, SchedulerMixin

from interlace.errors import InvalidRequestError

# A1111's names (https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features) as diffusers' classes.
SAMPLERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "PLMS": ("PNDMScheduler", {}),
    "PNDM": ("PNDMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "SA-Solver": ("SASolverScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
}
# The same for models that are trained on straight paths (FLUX, SD3, Qwen-Image), where other solvers don't apply.
FLOW_SAMPLERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "Euler a": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
}
# What may stand behind a sampler's name: the spacing of noise levels.
SPACINGS: dict[str, Mapping[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True},
    "Beta": {"use_beta_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Uniform": {},
    "Automatic": {},
}


def make_scheduler(pipeline: DiffusionPipeline, name: str, spacing: str | None = None) -> SchedulerMixin:
    """The scheduler `name` with the configuration of the pipeline's own.

    A sampler of A1111 ("DPM++ 2M Karras", case and blanks don't matter), or one of diffusers' classes. `spacing` is a
    key of `SPACINGS`. Raises `InvalidRequestError` for a name that is unknown, or that the model can't use.
    """
    own = getattr(pipeline, "scheduler", None)
    if own is None:
        raise InvalidRequestError(f"{type(pipeline).__name__} has no scheduler to replace", "sampler")
    table = _table(own)
    class_name, settings = _find(name, table)
    settings = {**settings, **_spacing(spacing)}
    chosen = getattr(diffusers, class_name)
    usable = {type(own).__name__, *(kind.__name__ for kind in own.compatibles), *(pair[0] for pair in table.values())}
    both_flow = table is FLOW_SAMPLERS and class_name.startswith("FlowMatch")
    if class_name not in usable and not both_flow:
        raise InvalidRequestError(_unusable(pipeline, name, table), "sampler")
    takes = inspect.signature(chosen.__init__).parameters
    for setting in settings:
        if setting not in takes:
            raise InvalidRequestError(f"{class_name} knows no {setting} ({name!r}); leave the spacing out", "sampler")
    try:
        return chosen.from_config(own.config, **settings)
    except (ImportError, ValueError, TypeError) as error:
        raise InvalidRequestError(f"sampler {name!r} can't be used here: {error}", "sampler") from error


def check_shift(pipeline: DiffusionPipeline, flow_shift: float | None) -> None:
    """Raises `InvalidRequestError` where a `flow_shift` is asked of a pipeline whose scheduler has none."""
    own = getattr(pipeline, "scheduler", None)
    if flow_shift is not None and (own is None or _shift_name(own) is None):
        text = f"{type(pipeline).__name__} ({type(own).__name__}) has no flow shift; leave flow_shift out"
        raise InvalidRequestError(text, "flow_shift")


def shifted(scheduler: SchedulerMixin, flow_shift: float) -> SchedulerMixin:
    """The same scheduler with another flow shift."""
    name = _shift_name(scheduler)
    assert name is not None
    return type(scheduler).from_config(scheduler.config, **{name: flow_shift})


def _shift_name(scheduler: SchedulerMixin) -> str | None:
    """What its class calls the shift, which one that computes it from the size of the picture doesn't take."""
    if getattr(scheduler.config, "use_dynamic_shifting", False):
        return None
    takes = inspect.signature(type(scheduler).__init__).parameters
    return next((name for name in ("flow_shift", "shift") if name in takes), None)


def sampler_names(pipeline: DiffusionPipeline) -> list[str]:
    """A1111's names for what a pipeline can use, without spacings."""
    own = getattr(pipeline, "scheduler", None)
    return [] if own is None else list(_table(own))


def _table(own: SchedulerMixin) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return FLOW_SAMPLERS if type(own).__name__.startswith("FlowMatch") else SAMPLERS


def _find(name: str, table: Mapping[str, tuple[str, Mapping[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """The class and settings of a sampler's name, with a spacing behind it or without."""
    known = {_plain(sampler): found for sampler, found in table.items()}
    endings: dict[str, Mapping[str, Any]] = {"": {}, **{_plain(words): found for words, found in SPACINGS.items()}}
    wanted = _plain(name)
    for ending, spacing in endings.items():
        base = wanted.removesuffix(ending) if ending and wanted.endswith(ending) else wanted
        if (not ending or base != wanted) and base in known:
            return known[base][0], {**known[base][1], **spacing}
    if name.endswith("Scheduler") and isinstance(getattr(diffusers, name, None), type):
        return name, {}
    close = difflib.get_close_matches(name, [*table, *(f"{one} Karras" for one in table)], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    text = f"unknown sampler {name!r}; {hint}known are {', '.join(table)}, with {', '.join(SPACINGS)} behind"
    raise InvalidRequestError(f"{text}, or a scheduler class of diffusers", "sampler")


def _spacing(name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    found = {_plain(known): settings for known, settings in SPACINGS.items()}.get(_plain(name))
    if found is None:
        raise InvalidRequestError(f"unknown spacing {name!r}; known are {', '.join(SPACINGS)}", "scheduler")
    return found


def _plain(name: str) -> str:
    return "".join(name.lower().replace("_", " ").split())


def _unusable(pipeline: DiffusionPipeline, name: str, table: Mapping[str, Any]) -> str:
    own = type(pipeline.scheduler).__name__
    return f"{type(pipeline).__name__} ({own}) can't be sampled with {name!r}; it can with {', '.join(table)}"
