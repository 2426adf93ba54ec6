"""What a user wants (sampling parameters, `Request`) and what came out (`Output`, `Metrics`). No torch."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from interlace.adapters import ControlChoice, LoraChoice, parse_controls, parse_lora
from interlace.checks import MAX_STEPS, check_choice, check_number, check_seed, check_speech, make_plain
from interlace.errors import InvalidRequestError
from interlace.media.files import clips_of, save_clips
from interlace.python.shown import png_of, save_images

if TYPE_CHECKING:
    from PIL.Image import Image

HiddenTokens = Literal["generated", "all"]
EventKind = Literal["started", "step", "preview", "text", "audio", "ended"]


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
    lora: tuple[LoraChoice, ...] | None = None  # any form that `parse_lora` reads; None: none, or the stage's default
    controlnet: tuple[ControlChoice, ...] | None = None  # any form that `parse_controls` reads; T2I-Adapters too
    ip_adapter: tuple[ControlChoice, ...] | None = None
    sampler: str | None = None  # in the place of the model's scheduler: a name of A1111 or a class of diffusers
    hold_guidance_after: float | None = None  # share of the steps; None: as the engine's settings say
    num_frames: int | None = None  # of a film; or its length in `seconds`
    fps: float | None = None  # frames a second: of the film's file, and of the model where it is told
    seconds: float | None = None  # how long a film or a sound is to be, as nearly as the model can
    flow_shift: float | None = None  # of the scheduler: more of the steps at high noise
    max_sequence_length: int | None = None  # text tokens
    priority: int = 0  # higher goes first
    timeout_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # any further argument of the pipeline's own call

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("height", "width", "num_frames", "max_sequence_length"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1, whole=True)
        if self.num_inference_steps is not None:
            check_number("num_inference_steps", self.num_inference_steps, 1, whole=True, high=MAX_STEPS)
        check_number("num_images", self.num_images, 1, whole=True)
        check_number("priority", self.priority, -(2**31), whole=True, high=2**31)
        for name in ("guidance_scale", "true_cfg_scale"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)
        for name in ("strength", "hold_guidance_after"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, high=1)
        for name, high in (("fps", 240), ("seconds", 3600), ("flow_shift", 1000)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1e-3, high=high)
        if self.seed is not None:
            check_seed(self.seed, self.num_images)
        if self.timeout_s is not None:
            check_number("timeout_s", self.timeout_s, 0)
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            got = type(self.negative_prompt).__name__
            raise InvalidRequestError(f"negative_prompt is a {got}; expected a text", "negative_prompt")
        object.__setattr__(self, "lora", parse_lora(self.lora))
        for name in ("controlnet", "ip_adapter"):
            object.__setattr__(self, name, parse_controls(name, getattr(self, name)))
        if self.sampler is not None and (not isinstance(self.sampler, str) or not self.sampler.strip()):
            raise InvalidRequestError(f"sampler is {self.sampler!r}; expected a name, such as Euler a", "sampler")
        if not isinstance(self.extra, Mapping) or not all(isinstance(key, str) for key in self.extra):
            raise InvalidRequestError(f"extra is {self.extra!r}; expected argument names with their values", "extra")

    def seeds(self) -> list[int]:
        """One seed an image: the request's own and those that follow; a random start where none was given."""
        first = self.seed if self.seed is not None else secrets.randbelow(2**32)
        return list(range(first, first + self.num_images))


@dataclass(frozen=True, kw_only=True)
class ARSamplingParams:
    """How a language model stage samples. None leaves the choice to the model's own generation_config."""

    max_tokens: int | None = None
    temperature: float | None = None  # 0: always the likeliest token
    top_p: float | None = None
    top_k: int | None = None  # 0: off
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    seed: int | None = None  # the same text for the same seed, whatever runs beside it
    hidden_layer: int | None = None  # hand out this layer's hidden states too (-1: the last)
    hidden_tokens: HiddenTokens = "generated"  # of the generated tokens, or of the prompt's too
    modalities: tuple[str, ...] | None = None  # "text", "audio": of a model that speaks; None: text
    voice: str | None = None  # None: the stage's
    speech: Mapping[str, Any] = field(default_factory=dict)  # how the talker samples: temperature, max_tokens, ...
    stream_audio: bool = False  # sound in pieces while it is made, which changes it a little

    def __post_init__(self) -> None:
        make_plain(self)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not isinstance(self.stop, (list, tuple)) or not all(isinstance(one, str) and one for one in self.stop):
            raise InvalidRequestError(f"stop is {self.stop!r}; expected texts that are not empty", "stop")
        object.__setattr__(self, "stop", tuple(self.stop))
        for name, low in (("max_tokens", 1), ("top_k", 0)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low, whole=True, high=2**63 - 1)
        if self.seed is not None:
            check_seed(self.seed)
        if self.temperature is not None:
            check_number("temperature", self.temperature, 0, high=100)
        if self.top_p is not None:
            check_number("top_p", self.top_p, 1e-6, high=1)
        if self.hidden_layer is not None:
            check_number("hidden_layer", self.hidden_layer, -(2**16), whole=True, high=2**16)
        check_choice("hidden_tokens", self.hidden_tokens, get_args(HiddenTokens))
        check_speech(self.modalities, self.voice, self.speech)
        if self.modalities is not None:
            object.__setattr__(self, "modalities", tuple(self.modalities))


AnySampling = SamplingParams | ARSamplingParams


def fields_of(kind: type[AnySampling]) -> frozenset[str]:
    """The names of sampling parameters."""
    return frozenset(f.name for f in fields(kind))


def set_fields(params: AnySampling) -> dict[str, Any]:
    """What is not left to defaults, by name."""
    empty = type(params)()
    named = ((f.name, getattr(params, f.name)) for f in fields(params))
    return {name: value for name, value in named if value != getattr(empty, name)}


SAMPLING_FIELDS = fields_of(SamplingParams)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt with its images and its sampling parameters; `request_id` is unique in its engine.

    What it says holds for every stage that it goes through; `stages` has what is said to single ones instead.
    """

    request_id: str
    prompt: str | None
    sampling: AnySampling
    images: Sequence[Any] = ()  # PIL images that condition the generation
    model_inputs: Mapping[str, Any] = field(default_factory=dict)  # further inputs by argument name (mask_image)
    stages: Mapping[int, "Request"] = field(default_factory=dict)  # by stage id
    preview_every: int = 0  # steps between previews; 0: none

    @property
    def drawing(self) -> SamplingParams:
        """Its parameters for a stage that draws. Raises `InvalidRequestError` where they are a language model's."""
        if not isinstance(self.sampling, SamplingParams):
            raise InvalidRequestError("a stage that draws got ARSamplingParams; expected SamplingParams", "sampling")
        return self.sampling

    @property
    def writing_alone(self) -> ARSamplingParams:
        """As `writing`, of a model that doesn't speak. Raises `InvalidRequestError` where speech is asked for."""
        if "audio" in (self.writing.modalities or ()):
            text = "modalities has audio; this language model writes text alone: ask an omni-modal one to speak"
            raise InvalidRequestError(text, "modalities")
        return self.writing

    @property
    def writing(self) -> ARSamplingParams:
        """Its parameters for a language model. Raises `InvalidRequestError` where they are a drawing stage's."""
        if not isinstance(self.sampling, ARSamplingParams):
            raise InvalidRequestError("a language model got SamplingParams; expected ARSamplingParams", "sampling")
        return self.sampling

    def split(
        self, name: Callable[[int], str] | None = None, seeds: Sequence[int] | None = None
    ) -> "tuple[Request, ...]":
        """One request an image, with a seed each: those given, or the request's own and those that follow.

        The only place where a request for several images becomes several. `name` gives each one's id.
        """
        sampling = self.drawing
        if name is None:
            name = (
                (lambda index: f"{self.request_id}/{index}") if sampling.num_images > 1 else lambda _: self.request_id
            )
        return tuple(
            replace(self, request_id=name(index), sampling=replace(sampling, seed=seed, num_images=1))
            for index, seed in enumerate(sampling.seeds() if seeds is None else seeds)
        )

    def named(self, request_id: str, preview_every: int) -> Self:
        """The same under an id, with so many steps between previews."""
        if (self.request_id, self.preview_every) == (request_id, preview_every):
            return self
        return replace(self, request_id=request_id, preview_every=preview_every)


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
    images: "list[Image]" = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)  # `media.clip.Frames` a film: reads as a list of PIL images
    fps: float | None = None  # of `frames`
    audio: list[Any] = field(default_factory=list)  # one array a clip: [channels, samples]; of a film, what is heard
    sample_rate: int | None = None  # samples a second of `audio`, where the model says so
    text: str | None = None
    hidden_states: Any = None  # a tensor [1, tokens, channels], where a language model stage was asked for it
    stages: list["Output"] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)  # one an image
    prompt_cut: Mapping[str, int] | None = None  # {"tokens", "read"} of a prompt longer than the model reads
    error: Exception | None = None
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def image(self) -> "Image":
        """The first picture. Raises the request's error where it failed, `ValueError` where it made no picture."""
        if self.error is not None:
            raise self.error
        if not self.images:
            raise ValueError(f"{self.request_id} made no picture; see frames, audio or text")
        return self.images[0]

    def save(self, path: str | Path) -> list[Path]:
        """Write the picture (`circle.png`), film (`circle.mp4`) or sound (`rain.wav`) to `path`, further ones beside it
        (`circle-1.png`). Returns the paths.

        Raises the request's error where it failed, and `InvalidRequestError` for a name that says no known format.
        """
        if self.error is not None:
            raise self.error
        clips = clips_of(self.frames, self.fps, self.audio, self.sample_rate)
        if clips:
            return save_clips(clips, path, {"prompt": self.prompt, "seed": next(iter(self.seeds), None)})
        assert self.image is not None
        return save_images(self.images, path)

    def _repr_png_(self) -> bytes | None:
        """What notebooks show: the pictures, side by side."""
        return png_of(self.images) if self.images and self.error is None else None


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
    audio: Any = None  # an array [samples], what was spoken since the last such event
    kind: EventKind = "step"
    rows: int = 0  # of the last forward that it took part in
    replica: int | None = None  # which one runs it, where its stage has several
