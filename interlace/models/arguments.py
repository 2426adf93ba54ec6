"""A request in Interlace's terms as the arguments of one particular pipeline's call. Refuses what it can't take."""

import inspect
import secrets
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

import torch
from diffusers import DiffusionPipeline

from interlace.errors import InvalidRequestError
from interlace.models.loader import LoadedModel
from interlace.request import SAMPLING_FIELDS, Request, SamplingParams

_PASSED = ("negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "true_cfg_scale", "strength",
           "num_frames", "max_sequence_length")  # fmt: skip


def parse_prompt(item: str | Mapping[str, Any], sampling: SamplingParams, request_id: str) -> Request:
    """A string, or a dict with "prompt", sampling fields, "multi_modal_data" and "request_id", as a `Request`.

    Fields of the dict override `sampling`. Raises `InvalidRequestError` for an unknown field or a wrong value.
    """
    if isinstance(item, str):
        return Request(request_id=request_id, prompt=item, sampling=sampling)
    if not isinstance(item, Mapping):
        raise InvalidRequestError(f"a prompt is a {type(item).__name__}; expected a text or a dict with 'prompt'")
    values = dict(item)
    prompt = values.pop("prompt", None)
    if prompt is not None and not isinstance(prompt, str):
        raise InvalidRequestError(
            f"prompt is a {type(prompt).__name__}; expected one text: submit several prompts as several requests",
            "prompt",
        )
    media = dict(values.pop("multi_modal_data", None) or {})
    images = media.pop("image", ())
    request_id = str(values.pop("request_id", request_id))
    unknown = [name for name in values if name not in SAMPLING_FIELDS]
    if unknown:
        known = ["prompt", "multi_modal_data", "request_id", *sorted(SAMPLING_FIELDS)]
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        raise InvalidRequestError(f"unknown field {unknown[0]!r}; {hint}", unknown[0])
    if "extra" in values:
        values["extra"] = {**sampling.extra, **values["extra"]}
    return Request(
        request_id=request_id,
        prompt=prompt,
        sampling=replace(sampling, **values),
        images=tuple(images) if isinstance(images, (list, tuple)) else (images,),
        model_inputs=media,
    )


class ArgumentMapper:
    """Turns requests into keyword arguments for one model's pipeline."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._name = type(model.pipeline).__name__
        self.parameters = dict(inspect.signature(model.pipeline.__call__).parameters)
        self._output_type = self._tensor_output(model.pipeline)

    def arguments(self, request: Request, seed: int) -> dict[str, Any]:
        """The pipeline's arguments for one image of `request`, drawn with `seed`.

        Raises `InvalidRequestError` for whatever the pipeline does not take or the model's limits exclude.
        """
        sampling = request.sampling
        given = {name: getattr(sampling, name) for name in _PASSED if getattr(sampling, name) is not None}
        given |= dict(request.model_inputs) | dict(sampling.extra)
        if request.prompt is not None:
            given["prompt"] = request.prompt
        if request.images:
            given["image"] = request.images[0] if len(request.images) == 1 else list(request.images)
        for name in given:
            self._check_known(name)
        arguments = {**self._model.defaults, **given}
        self._check_size(arguments)
        if "generator" in self.parameters:
            arguments["generator"] = torch.Generator("cpu").manual_seed(seed)
        if self._output_type is not None:
            arguments.setdefault("output_type", self._output_type)
        return arguments

    def resolved(self, request: Request) -> dict[str, Any]:
        """Every plain parameter that the request runs with: its own, the model's, the pipeline's defaults."""
        own = {f.name: getattr(request.sampling, f.name) for f in fields(SamplingParams)}
        names = [name for name in _PASSED if name in self.parameters]
        defaults = {name: self.parameters[name].default for name in names}
        values = {**defaults, **self._model.defaults, **{n: own[n] for n in names if own[n] is not None}}
        return {name: values[name] for name in names if isinstance(values[name], (int, float, str))}

    def _check_known(self, name: str) -> None:
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self.parameters.values())
        if name in self.parameters or takes_any:
            return
        close = get_close_matches(name, self.parameters, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "leave it out, or choose a model that has it"
        raise InvalidRequestError(f"{self._name} takes no {name}; {hint}", name)

    def _check_size(self, arguments: Mapping[str, Any]) -> None:
        low, high = self._model.limits.get("min_size", 1), self._model.limits.get("max_size", 2**31)
        multiple = self._model.limits.get("multiple_of", 1)
        for name in ("height", "width"):
            size = arguments.get(name)
            if not isinstance(size, int):
                continue
            if not low <= size <= high:
                raise InvalidRequestError(f"{name} is {size}; expected {low} to {high} pixels for this model", name)
            if size % multiple:
                below = size // multiple * multiple
                near = f"{max(below, low)} or {min(below + multiple, high)}"
                raise InvalidRequestError(f"{name} {size} is not a multiple of {multiple}; try {near}", name)

    def _tensor_output(self, pipeline: DiffusionPipeline) -> str | None:
        """`pt` where the pipeline can hand out tensors, so that pictures are made off the engine's thread."""
        parameter = self.parameters.get("output_type")
        can = hasattr(pipeline, "image_processor") or hasattr(pipeline, "video_processor")
        return "pt" if parameter is not None and parameter.default in ("pil", "np") and can else None


def seeds_of(sampling: SamplingParams) -> list[int]:
    """One seed an image: the request's own and those that follow; a random start where none was given."""
    first = sampling.seed if sampling.seed is not None else secrets.randbelow(2**32)
    return [(first + i) % 2**63 for i in range(sampling.num_images)]
