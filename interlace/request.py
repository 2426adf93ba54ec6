"""What a user wants (`SamplingParams`, `Request`) and what came out (`Output`, `Metrics`). Knows nothing of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from interlace.checks import check_number
from interlace.errors import InvalidRequestError

_MAX_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How a request is to be sampled. Immutable. None leaves the choice to the model's defaults.

    Sizes are in pixels, `timeout_s` in seconds. Raises `InvalidRequestError` for values outside their range; whether
    the model can take a value (a size, a guidance it lacks) is checked when the request meets its pipeline.
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    num_images: int = 1  # image i is drawn with seed + i
    strength: float | None = None  # of an image-to-image edit: 0 keeps the image, 1 ignores it
    hold_guidance_after: float | None = None  # share of the steps; None: as the engine's settings say
    num_frames: int | None = None
    max_sequence_length: int | None = None  # text tokens
    priority: int = 0  # higher goes first
    timeout_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # any further argument of the pipeline's own call

    def __post_init__(self) -> None:
        for name in ("height", "width", "num_inference_steps", "num_frames", "max_sequence_length"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1, whole=True)
        check_number("num_images", self.num_images, 1, whole=True)
        check_number("priority", self.priority, -(2**31), whole=True, high=2**31)
        for name in ("guidance_scale", "true_cfg_scale"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)
        for name in ("strength", "hold_guidance_after"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, high=1)
        if self.seed is not None:
            check_number("seed", self.seed, 0, whole=True, high=_MAX_SEED)
        if self.timeout_s is not None:
            check_number("timeout_s", self.timeout_s, 0)
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            got = type(self.negative_prompt).__name__
            raise InvalidRequestError(f"negative_prompt is a {got}; expected a text", "negative_prompt")
        if not isinstance(self.extra, Mapping) or not all(isinstance(key, str) for key in self.extra):
            raise InvalidRequestError(f"extra is {self.extra!r}; expected argument names with their values", "extra")


SAMPLING_FIELDS = frozenset(f.name for f in fields(SamplingParams))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt with its images and its sampling parameters; `request_id` is unique in its engine."""

    request_id: str
    prompt: str | None
    sampling: SamplingParams
    images: Sequence[Any] = ()  # PIL images that condition the generation
    model_inputs: Mapping[str, Any] = field(default_factory=dict)  # further inputs by argument name (mask_image)


@dataclass(kw_only=True)
class Metrics:
    """Where a request's time went. Seconds are wall-clock; a forward shared by n requests counts whole for each."""

    queue_s: float = 0.0  # submitted -> first run
    encode_s: float = 0.0  # forwards of text and image encoders, VAE encode
    denoise_s: float = 0.0  # forwards of transformers, UNets, ControlNets
    decode_s: float = 0.0  # VAE decode
    total_s: float = 0.0  # submitted -> finished
    num_steps: int = 0  # denoising steps that ran
    num_forwards: int = 0  # module forwards that this request took part in
    mean_rows: float = 0.0  # rows per forward, averaged over those forwards
    num_skipped: int = 0  # denoiser calls that the step cache answered
    num_guidance_held: int = 0  # denoiser calls, or halves of calls, answered with the last difference of guidance
    generate_s: float = 0.0  # language model stages: first token's start -> last token
    num_prompt_tokens: int = 0
    num_tokens: int = 0  # text tokens that were generated


@dataclass(kw_only=True)
class Output:
    """What a request came to: exactly one of an output (`images`, `frames`, `audio` or `text`) and an `error`.

    Of a request that went through several stages `text` is the last that was written, and `stages` has one output a
    stage, with its metrics; what it held only where `return_stages` asked for it.
    """

    request_id: str
    prompt: str | None = None
    images: list[Any] = field(default_factory=list)  # PIL images
    frames: list[Any] = field(default_factory=list)  # one list of PIL images a video
    audio: list[Any] = field(default_factory=list)  # one array a clip: [channels, samples]
    text: str | None = None
    hidden_states: Any = None  # a tensor [1, tokens, channels], where a language model stage was asked for it
    stages: list["Output"] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)  # one an image
    error: Exception | None = None
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A request on its way: `step` of `num_steps` denoising steps done; `preview` is a small PIL image or None.

    In a language model's stage the steps are tokens and `text` is what was written since the last such event.
    """

    request_id: str
    step: int
    num_steps: int
    preview: Any = None
    stage: int = 0
    text: str | None = None
