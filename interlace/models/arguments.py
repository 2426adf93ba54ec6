"""A request in Interlace's terms as the arguments of one particular pipeline's call. Refuses what it can't take."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import torch
from diffusers import DiffusionPipeline

from interlace.adapters import as_plain
from interlace.errors import InvalidRequestError
from interlace.models.films.lengths import (
    Makes,
    check_num_frames,
    check_picture,
    default_of,
    film_fps,
    frames_name,
    length_arguments,
    makes,
)
from interlace.models.loader import LoadedModel
from interlace.models.schedulers import check_shift
from interlace.models.sizes.limits import check_limits
from interlace.request import Request, SamplingParams

_PASSED = ("negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "true_cfg_scale", "strength",
           "num_frames", "max_sequence_length")  # fmt: skip


class ArgumentMapper:
    """Turns requests into keyword arguments for one model's pipeline."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._name = type(model.pipeline).__name__
        self.hash_of: Callable[[str], str | None] = lambda _: None  # of an adapter's file
        self.parameters = dict(inspect.signature(model.pipeline.__call__).parameters)
        self._output_type = self._tensor_output(model.pipeline)

    def arguments(self, request: Request) -> dict[str, Any]:
        """The pipeline's arguments for a request for one image.

        Raises `InvalidRequestError` for whatever the pipeline does not take or the model's limits exclude.
        """
        sampling = request.drawing
        given = self._given(request)
        check_shift(self._model.pipeline, sampling.flow_shift)
        if given.pop("output_type", "pil") != "pil":
            text = (
                "expected pil: an Output has pictures, films and sounds; for latents and arrays take Engine(pipeline)"
            )
            raise InvalidRequestError(f"output_type is {sampling.extra['output_type']!r}; {text}", "output_type")
        for name in given:
            self._check_known(name)
        arguments = {**self._defaults, **given}
        check_limits(self._model.limits, arguments)
        check_num_frames(self._model.pipeline, arguments.get(self._own_name("num_frames")))
        check_picture(self._model.pipeline, self.parameters, arguments)
        if "generator" in self.parameters:
            arguments["generator"] = torch.Generator("cpu").manual_seed(sampling.seed or 0)
        if self._output_type is not None:
            arguments.setdefault("output_type", self._output_type)
        return arguments

    def given(self, request: Request) -> frozenset[str]:
        """The arguments that the request itself gives."""
        return frozenset(self._given(request))

    def _given(self, request: Request) -> dict[str, Any]:
        sampling = request.drawing
        told = {name: getattr(sampling, name) for name in _PASSED}
        given = {self._own_name(name): value for name, value in told.items() if value is not None}
        given |= dict(request.model_inputs) | dict(sampling.extra)
        given |= self._length_arguments(sampling)
        if request.prompt is not None:
            given["prompt"] = request.prompt
        if request.images:
            given["image"] = request.images[0] if len(request.images) == 1 else list(request.images)
        return given

    @property
    def _defaults(self) -> dict[str, Any]:
        """The model's, without what is no argument: how fast its films play."""
        return {name: value for name, value in self._model.defaults.items() if name != "fps" or name in self.parameters}

    def _length_arguments(self, sampling: SamplingParams) -> dict[str, Any]:
        given = {name: getattr(sampling, name) for name in ("seconds", "fps", "num_frames")}
        return length_arguments(self._model.pipeline, self.parameters, self._model.defaults, given)

    def _own_name(self, name: str) -> str:
        """What the pipeline calls a sampling parameter."""
        return (frames_name(self.parameters) or name) if name == "num_frames" else name

    @property
    def makes(self) -> Makes:
        """What comes out."""
        return makes(self.parameters)

    def fps(self, sampling: SamplingParams) -> float | None:
        """Frames a second of the film that such a request makes; None where it makes none."""
        if self.makes != "film":
            return None
        own = {name: default_of(self.parameters, name) for name in ("frame_rate", "fps")}
        told = {**own, **self._defaults, **dict(sampling.extra)}
        return film_fps(self._model.pipeline, told, self._model.defaults, sampling.fps)

    def resolved(self, request: Request) -> dict[str, Any]:
        """Every plain parameter that the request runs with: its own, the model's, the pipeline's defaults."""
        own = {f.name: getattr(request.drawing, f.name) for f in fields(SamplingParams)}
        names = [name for name in _PASSED if self._own_name(name) in self.parameters]
        defaults = {name: self.parameters[self._own_name(name)].default for name in names}
        values = {**defaults, **self._model.defaults, **{n: own[n] for n in names if own[n] is not None}}
        found: dict[str, Any] = {name: values[name] for name in names if isinstance(values[name], (int, float, str))}
        lengths = self._length_arguments(request.drawing)
        found |= {"num_frames" if name == self._own_name("num_frames") else name: n for name, n in lengths.items()}
        if (fps := self.fps(request.drawing)) is not None:
            found["fps"] = fps
        if request.drawing.flow_shift is not None:
            found["flow_shift"] = request.drawing.flow_shift
        if request.drawing.sampler is not None:
            found["sampler"] = request.drawing.sampler
        if request.drawing.lora:
            found["lora"] = [{**one, "sha256": self.hash_of(one["name"])} for one in as_plain(request.drawing.lora)]
        for name in ("controlnet", "ip_adapter"):
            if choices := getattr(request.drawing, name):
                found[name] = [one.plain() for one in choices]
        return found

    def _check_known(self, name: str) -> None:
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self.parameters.values())
        if name in self.parameters or takes_any:
            return
        close = get_close_matches(name, self.parameters, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "leave it out, or choose a model that has it"
        raise InvalidRequestError(f"{self._name} takes no {name}; {hint}", name)

    def _tensor_output(self, pipeline: DiffusionPipeline) -> str | None:
        """`pt` where the pipeline can hand out tensors, so that pictures are made off the engine's thread."""
        parameter = self.parameters.get("output_type")
        can = hasattr(pipeline, "image_processor") or hasattr(pipeline, "video_processor")
        return "pt" if parameter is not None and parameter.default in ("pil", "np") and can else None
