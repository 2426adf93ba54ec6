"""What users say to several stages as one `Request`, and a request as what one stage is to do. No torch."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.prompts import Prompt, check_fields, parse_media, parse_prompt, parse_text
from interlace.python.given import gathered_media, overlaid
from interlace.request import AnySampling, ARSamplingParams, Request, SamplingParams, fields_of, set_fields
from interlace.stages.config import OmniStageConfig

Given = AnySampling | Mapping[int, AnySampling] | Sequence[AnySampling | None] | None
_PLAIN = frozenset({"prompt", "multi_modal_data"})
_KNOWN = fields_of(SamplingParams) | fields_of(ARSamplingParams)


def parse(item: Prompt, given: Given, configs: Sequence[OmniStageConfig], request_id: str) -> Request:
    """`item` as `Omni.generate` takes it, with the sampling parameters `given` beside it, as a request.

    Raises `InvalidRequestError` for what makes no sense, whatever the model.
    """
    if isinstance(item, Request):
        return item
    first = kind_of(configs[0])
    plain = len(configs) == 1 and first is SamplingParams and not (isinstance(item, Mapping) and "stages" in item)
    if plain and (given is None or isinstance(given, SamplingParams)):
        return parse_prompt(item, given or SamplingParams(), request_id)
    if isinstance(item, Mapping):
        item = gathered_media(item)
    if not isinstance(item, (str, Mapping)):
        raise InvalidRequestError(f"a prompt is a {type(item).__name__}; expected a text or a dict with 'prompt'")
    user = {"prompt": item} if isinstance(item, str) else {k: v for k, v in item.items() if k != "request_id"}
    parts = _parts(user.pop("stages", None), configs)
    for part in (user, *parts):
        check_fields({name: value for name, value in part.items() if name not in _PLAIN}, _KNOWN)
    stages = {
        config.stage_id: _stage(
            user, part, given_for(given, configs, config), request_id, is_last=config is configs[-1]
        )
        for config, part in zip(configs, parts, strict=True)
    }
    common = given if isinstance(given, SamplingParams) else SamplingParams()
    images, inputs = parse_media(user.get("multi_modal_data"))
    return Request(
        request_id=request_id,
        prompt=parse_text(user.get("prompt")),
        sampling=overlaid(common, {name: value for name, value in user.items() if name in fields_of(SamplingParams)}),
        images=images,
        model_inputs=inputs,
        stages=stages,
    )


def requests_for(request: Request, configs: Sequence[OmniStageConfig]) -> tuple[Request, ...]:
    """What each stage is to do: the stage's own defaults where the request says nothing, one seed for all of them.

    Stages on the way make one image, unless the request asks that very stage for more. Media that a language model
    before a stage takes, by its `input_modalities`, and the stage doesn't, end there. Raises `InvalidRequestError`.
    """
    own = [
        _without(_for_stage(request, config, is_last=config is configs[-1]), _read_before(configs[:place], config))
        for place, config in enumerate(configs)
    ]
    seeds = (one.sampling.seed for one in (request, *own))
    seed = next((one for one in seeds if one is not None), None)
    seed = secrets.randbelow(2**32) if seed is None else seed
    return tuple(
        one if one.sampling.seed is not None else replace(one, sampling=replace(one.sampling, seed=seed)) for one in own
    )


def _read_before(before: Sequence[OmniStageConfig], config: OmniStageConfig) -> set[str]:
    """The kinds of media that end with a language model before a stage that draws."""
    writers = [one for one in before if one.stage_type == "ar"] if config.stage_type == "diffusion" else []
    return {kind for one in writers for kind in one.input_modalities} - set(config.input_modalities) - {"text"}


def _without(request: Request, kinds: set[str]) -> Request:
    if not kinds:
        return request
    gone = kinds | {"use_audio_in_video"}
    inputs = {name: value for name, value in request.model_inputs.items() if name not in gone}
    return replace(request, images=() if "image" in kinds else request.images, model_inputs=inputs)


def given_for(given: Given, configs: Sequence[OmniStageConfig], config: OmniStageConfig) -> AnySampling:
    """A user's parameters for one stage: one for all stages that it fits, one a stage, or by stage id.

    Raises `InvalidRequestError` when their number or kind doesn't fit.
    """
    kind = kind_of(config)
    if given is None or isinstance(given, (SamplingParams, ARSamplingParams)):
        fitting: AnySampling = given if isinstance(given, kind) else kind()
        if isinstance(fitting, SamplingParams) and config is not configs[-1]:
            return replace(fitting, num_images=1)  # several are the last stage's affair
        return fitting
    if isinstance(given, Sequence) and len(given) != len(configs):
        text = f"sampling_params has {len(given)} items for {len(configs)} stages; expected one a stage or None"
        raise InvalidRequestError(text, "sampling_params")
    if not isinstance(given, (Sequence, Mapping)):
        text = f"sampling_params is a {type(given).__name__}; expected SamplingParams, or one a stage"
        raise InvalidRequestError(text, "sampling_params")
    own = given.get(config.stage_id) if isinstance(given, Mapping) else given[config.stage_id]
    if own is not None and not isinstance(own, kind):
        raise InvalidRequestError(
            f"sampling_params of stage {config.stage_id} are {type(own).__name__}; expected {kind.__name__}",
            "sampling_params",
        )
    return own or kind()


def kind_of(config: OmniStageConfig) -> type[SamplingParams] | type[ARSamplingParams]:
    """Which sampling parameters a stage takes."""
    return SamplingParams if config.stage_type == "diffusion" else ARSamplingParams


def _stage(
    user: Mapping[str, Any], part: Mapping[str, Any], given: AnySampling, name: str, *, is_last: bool
) -> Request:
    """What a request says for one stage: its own part over what holds for all."""
    own, known = {**user, **part}, fields_of(type(given))
    fields = {name: value for name, value in own.items() if name in known}
    if not is_last and "num_images" not in part:
        fields.pop("num_images", None)  # the last stage's affair
    images, inputs = parse_media(own.get("multi_modal_data"))
    return Request(
        request_id=name,
        prompt=parse_text(own.get("prompt")),
        sampling=overlaid(given, fields),
        images=images,
        model_inputs=inputs,
    )


def _for_stage(request: Request, config: OmniStageConfig, *, is_last: bool) -> Request:
    """The stage's own part of a request, or what holds for all, over the stage's defaults."""
    kind, own = kind_of(config), request.stages.get(config.stage_id)
    if own is not None and not isinstance(own.sampling, kind):
        got = type(own.sampling).__name__
        raise InvalidRequestError(f"stage {config.stage_id} got {got}; expected {kind.__name__}", "stages")
    said = set_fields(own.sampling if own is not None else request.sampling)
    if own is None and not isinstance(request.sampling, kind):
        said = {}
    if own is None and not is_last:
        said.pop("num_images", None)
    return replace(
        own or request,
        request_id=request.request_id,
        sampling=kind(**{**set_fields(config.sampling()), **said}),
        stages={},
        preview_every=request.preview_every,
    )


def _parts(parts: Any, configs: Sequence[OmniStageConfig]) -> list[Mapping[str, Any]]:
    """What a request says for each stage alone."""
    if parts is None:
        return [{} for _ in configs]
    if isinstance(parts, Mapping):
        parts = [parts.get(config.stage_id, parts.get(str(config.stage_id))) for config in configs]
    if not isinstance(parts, Sequence) or len(parts) != len(configs):
        raise InvalidRequestError(
            f"the request's stages are {parts!r}; expected {len(configs)} dicts, one a stage", "stages"
        )
    return [dict(part or {}) for part in parts]
