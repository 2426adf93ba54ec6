"""What a checked request comes to: prompts, pictures and parameters for the engine, and what its output becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from interlace.bulk.encoding import Encoding
from interlace.models.arguments import parse_prompt, seeds_of
from interlace.request import SamplingParams
from interlace.serve.errors import invalid
from interlace.serve.fields import Sampling
from interlace.serve.lanes import Lane
from interlace.serve.settings import ServeSettings

_DENIED = ("prompt", "image", "mask_image", "generator", "latents", "output_type", "return_dict", "timesteps", "sigmas",
           "max_area", "attention_kwargs", "cross_attention_kwargs", "joint_attention_kwargs")  # fmt: skip
_PASSED = ("negative_prompt", "num_inference_steps", "guidance_scale", "true_cfg_scale", "strength",
           "hold_guidance_after", "max_sequence_length", "timeout_s")  # fmt: skip


@dataclass(frozen=True)
class Order:
    """A request that can be run. Sizes are [width, height] in pixels, None where the pipeline decides."""

    lane: Lane
    prompt: str | None
    sampling: SamplingParams
    seeds: Sequence[int]
    size: tuple[int | None, int | None]
    num_steps: int
    images: Sequence[Image.Image] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[Mapping[str, Any]] = ()  # what is said for each stage alone, where there are several
    paste: tuple[Image.Image, Image.Image] | None = None  # picture and mask (white: edited) to be put together after
    encoding: Encoding = field(default_factory=Encoding)
    num_previews: int = 0
    seconds: str | None = None
    num_image_tokens: int = 0  # squares of 16 by 16 pixels in the pictures that came in
    user: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the answer: quality, background, ...

    @property
    def preview_every(self) -> int:
        """Steps between previews; 0 for none."""
        return max(self.num_steps // (self.num_previews + 1), 1) if self.num_previews else 0

    def expected_previews(self, num_steps: int) -> int:
        """How many there will be, of a request that ran `num_steps` steps: none of the last."""
        every = self.preview_every
        return min(self.num_previews, max(num_steps - 1, 0) // every) if every and self.lane.previews else 0

    @property
    def num_text_tokens(self) -> int:
        """Of the prompt, as the model's own tokenizer counts; 0 where it has none."""
        return self.lane.count_tokens(self.prompt) if self.prompt else 0

    def prompt_item(self) -> dict[str, Any]:
        """What `Omni.submit` takes."""
        item: dict[str, Any] = {} if self.prompt is None else {"prompt": self.prompt}
        media = dict(self.inputs)
        if self.images:
            media["image"] = list(self.images)
        return {**item, "multi_modal_data": media} if media else item

    def sampling_of(self, index: int) -> SamplingParams:
        """Parameters of one picture."""
        return replace(self.sampling, seed=self.seeds[index], num_images=1)

    def light(self) -> "Order":
        """Without its pictures: for keeping."""
        return replace(self, images=(), inputs={}, paste=None)

    def check(self) -> None:
        """Raises `InvalidRequestError` for whatever the pipeline or the model does not take."""
        request = parse_prompt(self.prompt_item(), self.sampling_of(0), "check")
        self.lane.omni.arguments.arguments(request, self.seeds[0])


def make_sampling(
    fields: Sampling,
    lane: Lane,
    settings: ServeSettings,
    *,
    n: int,
    size: tuple[int | None, int | None],
    num_steps: int,
    extra: Mapping[str, Any] | None = None,
) -> SamplingParams:
    """The fields beyond OpenAI's as sampling parameters, within the server's limits. Raises `ApiError`."""
    if fields.lora is not None:
        raise invalid("lora: adapters can't be chosen by request in this version; serve a model with it fused", "lora")
    values = {name: getattr(fields, name) for name in _PASSED if getattr(fields, name) is not None}
    if (fields.negative_prompt or "").strip():
        check_prompt(fields.negative_prompt or "", settings, "negative_prompt")
    if lane.takes("num_inference_steps"):
        values["num_inference_steps"] = num_steps
    width, height = size
    if width and height:
        values |= {"width": width, "height": height}
        extra = {**(extra or {}), **lane.area(width, height)}
    params = {**plain_extras(fields.extra_params or {}, lane), **(extra or {})}
    return SamplingParams(**values, seed=fields.seed, num_images=n, priority=fields.priority or 0, extra=params)


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


def resolve_size(
    size: str | None, width: int | None, height: int | None, lane: Lane, settings: ServeSettings
) -> tuple[int | None, int | None]:
    """Width and height in pixels, (None, None) for auto. Raises `ApiError` where they contradict or are too large."""
    given = size not in (None, "auto")
    if given and (width or height):
        raise invalid("size and width or height are given; expected one of these ways", "size")
    if given:
        width, height = (int(side) for side in str(size).split("x"))
    if width or height:
        width, height = width or lane.default("width"), height or lane.default("height")
        if not width or not height:
            raise invalid("one of width and height is given; expected both for this model", "width")
    for name, side in (("width", width), ("height", height)):
        if side and side > settings.max_image_size:
            param = "size" if given else name
            raise invalid(f"{name} is {side}; this server allows up to {settings.max_image_size} pixels", param)
    return width, height


def resolve_seeds(fields: Sampling, n: int) -> list[int]:
    """One a picture."""
    return seeds_of(SamplingParams(seed=fields.seed, num_images=n))


def check_prompt(prompt: str, settings: ServeSettings, param: str = "prompt") -> None:
    """Raises `ApiError` for a prompt that is blank or too long."""
    if not prompt.strip():
        raise invalid(f"{param} is blank; expected some words", param)
    if len(prompt) > settings.max_prompt_chars:
        text = f"{param} has {len(prompt)} characters; this server allows {settings.max_prompt_chars}"
        raise invalid(text, param, "prompt_too_long")
