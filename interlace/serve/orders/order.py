"""What a checked request comes to: prompts, pictures and parameters for the engine, and what its output becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from interlace.adapters import LoraChoice, parse_controls, parse_lora
from interlace.media.encode import Encoding
from interlace.media.formats.table import MediaFormat
from interlace.models.controls.names import check_names
from interlace.python.given import with_control_images
from interlace.request import Request, SamplingParams
from interlace.serve.http.errors import invalid
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.jobs.models import Lane
from interlace.serve.jobs.staged import StageParts, staged
from interlace.serve.orders.fields import Sampling
from interlace.serve.settings import ServeSettings

_DENIED = ("prompt", "image", "mask_image", "generator", "latents", "output_type", "return_dict", "timesteps", "sigmas",
           "max_area", "attention_kwargs", "cross_attention_kwargs", "joint_attention_kwargs")  # fmt: skip
_PASSED = ("negative_prompt", "num_inference_steps", "guidance_scale", "true_cfg_scale", "strength",
           "hold_guidance_after", "max_sequence_length", "timeout_s", "sampler")  # fmt: skip
# What asks for nothing where a model has no such setting.
_NEUTRAL: dict[str, tuple[object, ...]] = {"negative_prompt": ("", " "), "true_cfg_scale": (0, 1),
                                           "guidance_scale": (0, 1), "strength": (1,)}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """A request that can be run. Sizes are [width, height] in pixels, None where the pipeline decides."""

    lane: Lane
    request: Request  # for all pictures, with the seed of the first; without an id
    size: tuple[int | None, int | None]
    num_steps: int
    paste: tuple[Image.Image, Image.Image] | None = None  # picture and mask (white: edited) to be put together after
    encoding: Encoding = field(default_factory=Encoding)
    num_previews: int = 0
    seconds: str | None = None
    media: MediaFormat[Any] | None = None  # of a film or a sound
    num_image_tokens: int = 0  # squares of 16 by 16 pixels in the pictures that came in
    user: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the answer: quality, background, ...
    warnings: Sequence[str] = ()  # what was asked for in vain

    @property
    def prompt(self) -> str | None:
        """What the pictures show."""
        return self.request.prompt

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return self.request.drawing.priority

    @property
    def num_images(self) -> int:
        """Pictures that were asked for."""
        return self.request.drawing.num_images

    @property
    def preview_every(self) -> int:
        """Steps between previews; 0 for none."""
        return max(self.num_steps // (self.num_previews + 1), 1) if self.num_previews else 0

    @property
    def num_text_tokens(self) -> int:
        """Of the prompt, as the model's own tokenizer counts; 0 where it has none."""
        return self.lane.count_tokens(self.prompt) if self.prompt else 0

    def requests(self, job_id: str) -> tuple[Request, ...]:
        """One for each picture."""
        request = replace(self.request, preview_every=self.preview_every)
        return request.split(lambda index: f"{job_id}.{index}")

    def over_stages(self, parts: StageParts) -> "Order":
        """With what is said for each stage alone, where there are several."""
        return replace(self, request=staged(self.request, self.lane, parts))

    def light(self) -> "Order":
        """Without its pictures: for keeping."""
        sampling = replace(self.request.drawing, controlnet=None, ip_adapter=None)
        light = replace(self.request, images=(), model_inputs={}, stages={}, sampling=sampling)
        return replace(self, request=light, paste=None)

    def check(self) -> None:
        """Raises `InvalidRequestError` for whatever the pipeline or the model does not take."""
        self.lane.omni.arguments.arguments(self.request.split()[0])
        self.lane.check_size(self.request.drawing)


def make_request(
    lane: Lane,
    prompt: str | None,
    sampling: SamplingParams,
    images: Sequence[Image.Image] = (),
    inputs: Mapping[str, object] | None = None,
) -> Request:
    """What the lane's engine is asked for, all pictures together; where no seed was given, one is drawn now."""
    if sampling.seed is None:
        sampling = replace(sampling, seed=sampling.seeds()[0])
    request = Request(request_id="", prompt=prompt, sampling=sampling, images=images, model_inputs=dict(inputs or {}))
    return staged(request, lane)


def make_sampling(
    fields: Sampling,
    lane: Lane,
    settings: ServeSettings,
    *,
    n: int,
    size: tuple[int | None, int | None],
    num_steps: int,
    extra: Mapping[str, object] | None = None,
) -> SamplingParams:
    """The fields beyond OpenAI's as sampling parameters, within the server's limits. Raises `ApiError`."""
    values: dict[str, Any] = {name: getattr(fields, name) for name in _PASSED if getattr(fields, name) is not None}
    for name in [name for name in values if not lane.takes(name) and values[name] in _NEUTRAL.get(name, ())]:
        del values[name]
    if (fields.negative_prompt or "").strip():
        check_prompt(fields.negative_prompt or "", settings, "negative_prompt")
    if lane.takes("num_inference_steps"):
        values["num_inference_steps"] = num_steps
    values["lora"] = _loras(fields, lane)
    values |= _controls(fields, lane, settings)
    width, height = size
    if width and height:
        values |= {"width": width, "height": height}
        extra = {**(extra or {}), **lane.area(width, height)}
    params = {**plain_extras(fields.extra_params or {}, lane), **(extra or {})}
    return SamplingParams(**values, seed=fields.seed, num_images=n, priority=fields.priority or 0, extra=params)


def _loras(fields: Sampling, lane: Lane) -> tuple[LoraChoice, ...] | None:
    """The adapters that a request names, also as its `model`. Raises `UnknownAdapterError`, `InvalidRequestError`."""
    choices = parse_lora(fields.lora)
    model = getattr(fields, "model", None)
    if model in lane.loras.names and model != lane.name and all(one.name != model for one in choices or ()):
        choices = (*(choices or ()), LoraChoice(model))
    lane.loras.check(choices or ())
    return choices


def _controls(fields: Sampling, lane: Lane, settings: ServeSettings) -> dict[str, Any]:
    """The controls that a request names, with their pictures decoded. Raises `ApiError`, `InvalidRequestError`."""
    found: dict[str, Any] = {}
    for name in ("controlnet", "ip_adapter"):
        choices = parse_controls(name, getattr(fields, name))
        if len(choices or ()) > settings.max_input_images:
            raise invalid(f"{name} names {len(choices or ())}; this server allows {settings.max_input_images}", name)
        known = lane.model.extras.named(name)
        check_names(name, choices, tuple(known))
        found[name] = choices
    plain = SamplingParams(**found)
    with_pictures = with_control_images(plain, lambda image: decode_image(image_bytes(image, settings), settings))
    return {name: getattr(with_pictures, name) for name in found}


def plain_extras(extras: Mapping[str, Any], lane: Lane) -> dict[str, Any]:
    """`extra_params` that are plain settings of the pipeline. Raises `ApiError` for what has a field or is unsafe."""
    for name, value in extras.items():
        own = name in Sampling.model_fields or name in ("size", "n", "num_frames")
        if own:
            raise invalid(f"extra_params.{name}: give {name} as a field of its own", "extra_params")
        if name in _DENIED or name.startswith(("num_", "_", "callback", "ip_adapter", "control")):
            raise invalid(f"extra_params.{name} can't be set through this server", "extra_params")
        if isinstance(value, str) and len(value) > 10_000:
            raise invalid(f"extra_params.{name} has {len(value)} characters; expected at most 10000", "extra_params")
        if not lane.takes(name):
            known = sorted(set(lane.parameters) - set(_DENIED))
            raise invalid(f"extra_params.{name}: {lane.pipeline_name} takes {', '.join(known)}", "extra_params")
    return dict(extras)


def resolve_steps(asked: int | None, factor: float, lane: Lane, settings: ServeSettings) -> int:
    """Denoising steps: as asked, or the model's default times `factor`. Raises `ApiError` above `max_steps`."""
    steps = asked or max(1, round((lane.default("num_inference_steps") or 1) * factor))
    if steps > settings.max_steps:
        text = f"num_inference_steps is {steps}; this server allows 1 to {settings.max_steps}"
        raise invalid(text, "num_inference_steps")
    return steps


def check_prompt(prompt: str, settings: ServeSettings, param: str = "prompt") -> None:
    """Raises `ApiError` for a prompt that is blank or too long."""
    if not prompt.strip():
        raise invalid(f"{param} is blank; expected some words", param)
    if len(prompt) > settings.max_prompt_chars:
        text = f"{param} has {len(prompt)} characters; this server allows {settings.max_prompt_chars}"
        raise invalid(text, param, "prompt_too_long")
