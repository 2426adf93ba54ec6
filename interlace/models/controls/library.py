"""The controls that requests of one model may name, and what a request with some of them runs.

A ControlNet or a T2I-Adapter needs a pipeline of its own, a sibling of the model's: the denoiser and all else are one.
IP-Adapters sit in the denoiser; requests differ in their pictures and scales. Safe in several threads.
"""

import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from interlace.adapters import ControlChoice
from interlace.engine.engine import Engine
from interlace.engine.pipeline.variants.outfit import Outfit, ip_adapter_scale
from interlace.errors import InvalidRequestError
from interlace.extras import Extras
from interlace.models.controls.families import ControlFamily
from interlace.models.controls.loading import family_of, load_control, load_ip_adapters, num_modes, sibling
from interlace.models.controls.names import check_names
from interlace.request import SamplingParams

_BLANK = Image.new("RGB", (32, 32))  # the picture of an IP-Adapter that a request doesn't use


@dataclass(frozen=True)
class Controlled:
    """What a request runs in the place of the model's own pipeline, and with what more arguments."""

    pipeline: DiffusionPipeline | None = None  # None: the model's
    arguments: Mapping[str, Any] = field(default_factory=dict)
    outfit: Outfit | None = None
    takes: frozenset[str] | None = None  # the arguments that `pipeline` knows

    def kwargs(self, own: Mapping[str, object], given: frozenset[str]) -> dict[str, object]:
        """The arguments of the call, where those of the model's pipeline would be `own`, `given` ones by the request.

        Raises `InvalidRequestError` for a given one that the pipeline doesn't take.
        """
        for name in own:
            if self.takes is not None and name not in self.takes and name in given:
                kind = type(self.pipeline).__name__
                raise InvalidRequestError(f"{kind} takes no {name}; leave it out, or the controlnet", name)
        kept = {name: value for name, value in own.items() if self.takes is None or name in self.takes}
        return {**kept, **self.arguments}


class ControlLibrary:
    """Loads all that `extras` names. Raises `ModelLoadError` or `InvalidRequestError` for what can't be."""

    def __init__(self, pipeline: DiffusionPipeline, extras: Extras, *, local_files_only: bool = False) -> None:
        """Before an engine opens on the pipeline: IP-Adapters change its denoiser."""
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._siblings: dict[tuple[str, ...], DiffusionPipeline] = {}
        places = extras.named("controlnet")
        self._family: ControlFamily | None = family_of(pipeline) if places else None
        self._nets = {
            name: load_control(name, place, pipeline, local_files_only=local_files_only)
            for name, place in places.items()
        }
        self._ip_adapters = extras.named("ip_adapter")
        if self._ip_adapters:
            load_ip_adapters(pipeline, self._ip_adapters, local_files_only=local_files_only)
        self.engine: Engine | None = None

    @property
    def num_bytes(self) -> int:
        """Of the ControlNets and T2I-Adapters on a CPU, where an engine counts those of the model's pipeline alone."""
        if self._pipeline.device.type != "cpu":
            return 0
        return sum(p.nbytes for net in self._nets.values() for p in net.parameters())

    def needs_loading(self, sampling: SamplingParams) -> bool:
        """Whether a request's ControlNets have not yet run together: their pipeline must be made first."""
        return bool(sampling.controlnet) and _names(sampling.controlnet or ()) not in self._siblings

    def take(self, sampling: SamplingParams) -> Controlled:
        """What a request runs. Raises `UnknownAdapterError` for a name that isn't known, `InvalidRequestError`."""
        for param, known in (("controlnet", self._nets), ("ip_adapter", self._ip_adapters)):
            check_names(param, getattr(sampling, param), tuple(known))
            _check_pictures(param, getattr(sampling, param))
        arguments, outfit = self._pictured(sampling.ip_adapter or ()) if self._ip_adapters else ({}, None)
        if not sampling.controlnet:
            return Controlled(arguments=arguments, outfit=outfit)
        choices = sampling.controlnet
        for one in choices:
            _check_mode(one, num_modes(self._nets[one.name]))
        pipeline = self._sibling(_names(choices), len(choices))
        takes = frozenset(inspect.signature(pipeline.__call__).parameters)
        if arguments and "ip_adapter_image" not in takes:
            if sampling.ip_adapter:
                text = f"{type(pipeline).__name__} takes no IP-Adapters; leave ip_adapter or controlnet out"
                raise InvalidRequestError(text, "ip_adapter")
            text = f"{type(pipeline).__name__} can't run where IP-Adapters are loaded; start without --ip-adapter"
            raise InvalidRequestError(text, "controlnet")
        own = _adapter(choices, takes) if "adapter_conditioning_scale" in takes else _controlnet(choices, takes)
        return Controlled(pipeline, {**arguments, **own}, outfit, takes)

    def _pictured(self, choices: tuple[ControlChoice, ...]) -> tuple[dict[str, Any], Outfit]:
        """Every IP-Adapter that is loaded wants a picture, and has a scale: 0 for those that a request doesn't use."""
        by_name = {one.name: one for one in choices}
        pictures = [by_name[name].image if name in by_name else _BLANK for name in self._ip_adapters]
        scales = [by_name[name].scale if name in by_name else 0.0 for name in self._ip_adapters]
        return {"ip_adapter_image": pictures}, ip_adapter_scale(_one(scales))

    def _sibling(self, names: tuple[str, ...], num_choices: int) -> DiffusionPipeline:
        of_union = type(self._nets[names[0]]).__name__ == "ControlNetUnionModel"
        if num_choices > len(names) and (len(names) > 1 or not of_union):
            text = f"controlnet names one of {', '.join(names)} twice; several modes go with one SDXL ControlNet alone"
            raise InvalidRequestError(text, "controlnet")
        with self._lock:
            if names not in self._siblings:
                made = self._made([self._nets[name] for name in names], names)
                assert self.engine is not None
                self.engine.adopt(made)
                self._siblings[names] = made
            return self._siblings[names]

    def _made(self, nets: list[Any], names: tuple[str, ...]) -> DiffusionPipeline:
        assert self._family is not None
        kinds = {type(net).__name__ for net in nets}
        if len(kinds) > 1:
            text = (
                f"controlnet names {', '.join(names)}: {' and '.join(sorted(kinds))} don't go together; choose one kind"
            )
            raise InvalidRequestError(text, "controlnet")
        one_or_more, kind = nets[0] if len(nets) == 1 else nets, kinds.pop()
        if kind == self._family.adapter:
            return sibling(self._pipeline, str(self._family.with_adapter), adapter=one_or_more)
        runs = self._family.with_union if kind == self._family.union else self._family.with_controlnet
        return sibling(self._pipeline, str(runs), controlnet=one_or_more)


def _names(choices: Sequence[ControlChoice]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.name for one in choices))


def _check_pictures(param: str, choices: Sequence[ControlChoice] | None) -> None:
    """Whoever takes requests opens the pictures that they name: nothing is read from disk on a stranger's behalf."""
    for one in choices or ():
        if isinstance(one.image, (str, bytes)):
            got = type(one.image).__name__
            raise InvalidRequestError(f"the image of {param} {one.name!r} is a {got}; expected a picture", param)


def _check_mode(choice: ControlChoice, count: int | None) -> None:
    if count is None and choice.mode is not None:
        raise InvalidRequestError(f"{choice.name!r} has no modes; leave mode out", "controlnet")
    if count is not None and (choice.mode is None or choice.mode >= count):
        text = f"{choice.name!r} is for several kinds of pictures, and mode is {choice.mode}"
        raise InvalidRequestError(f"{text}; expected 0 to {count - 1}, as its authors number them", "controlnet")


def _controlnet(choices: tuple[ControlChoice, ...], takes: frozenset[str]) -> dict[str, Any]:
    modes = [one.mode for one in choices]
    more = {} if modes.count(None) == len(modes) else {"control_mode": _one(modes)}
    return more | {
        "control_image" if "control_image" in takes else "image": _one([one.image for one in choices]),
        "controlnet_conditioning_scale": _one([float(one.scale) for one in choices]),
        "control_guidance_start": _one([float(one.start) for one in choices]),
        "control_guidance_end": _one([float(one.end) for one in choices]),
    }


def _adapter(choices: tuple[ControlChoice, ...], takes: frozenset[str]) -> dict[str, Any]:
    ends = {one.end for one in choices}
    if (
        any(one.start for one in choices)
        or len(ends) > 1
        or (ends != {1.0} and "adapter_conditioning_factor" not in takes)
    ):
        text = "a T2I-Adapter acts from the first step on"
        more = "; with SDXL all of a request's may end together" if "adapter_conditioning_factor" in takes else ""
        raise InvalidRequestError(f"{text}{more}: leave start and end out", "controlnet")
    found = {
        "image": _one([one.image for one in choices]),
        "adapter_conditioning_scale": _one([float(one.scale) for one in choices]),
    }
    return found if ends == {1.0} else {**found, "adapter_conditioning_factor": ends.pop()}


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values
