"""Flags that several commands share, generated from dataclasses."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter, Token

from interlace.adapters import LoraChoice, parse_lora
from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError
from interlace.extras import Extras
from interlace.request import SamplingParams

if TYPE_CHECKING:
    from interlace.models.optimize import Optimizations

RunGroup = Group("Input and output", sort_key=1)
PictureGroup = Group(
    "Pictures", sort_key=2, help="For all rows; a row's own column wins. Left out: the model's default."
)
ModelGroup = Group("Model", sort_key=3)
BatchingGroup = Group("Batching", sort_key=4)
SpeedGroup = Group("Speed and memory", sort_key=5)
NodeGroup = Group("Many processes and machines", sort_key=6)


def _number_or_auto(kind: type, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    if text == "auto":
        return EngineConfig.max_num_seqs
    try:
        return int(text)
    except ValueError:
        raise InvalidRequestError(f"batch-size is {text!r}; expected a whole number or auto", "max_num_seqs") from None


@Parameter(name="*", group=BatchingGroup)
@dataclass(frozen=True, kw_only=True)
class EngineFlags(EngineConfig):
    """The engine's settings as flags."""

    max_num_seqs: Annotated[int, Parameter(alias="--batch-size", converter=_number_or_auto)] = EngineConfig.max_num_seqs
    """Requests in flight at once; further ones wait in the queue. How many of them share a forward is measured
    (--max-batch-rows auto). auto: 16."""


@Parameter(name="*", group=SpeedGroup)
@dataclass(frozen=True, kw_only=True)
class SpeedFlags:
    """What makes forwards faster or smaller. Each does what it says, or is refused with the reason."""

    attention_backend: str | None = None
    """One of diffusers' backends: native, flash, sage, xformers, ..."""
    enable_compile: Annotated[bool, Parameter(negative=())] = False
    """torch.compile the denoiser's repeated blocks: minutes at first, faster forwards after."""
    enable_cuda_graphs: Annotated[bool, Parameter(negative=())] = False
    """Compile the blocks for each row count and size and replay them as CUDA graphs: for small work. Together with
    --row-buckets; NVIDIA GPUs only, and untried so far."""
    deterministic: Annotated[bool, Parameter(negative=())] = False
    """The same forward gives the same bits at every run, or an error that names the operation that can't. In any
    company: with --batch-invariant."""
    enable_vae_slicing: Annotated[bool, Parameter(negative=())] = False
    """Decode images one at a time: less memory."""
    enable_vae_tiling: Annotated[bool, Parameter(negative=())] = False
    """Decode large images in tiles: less memory; seams are blended."""
    enable_cpu_offload: Annotated[bool, Parameter(negative=())] = False
    """Keep on the GPU only the module that runs; needs a GPU and accelerate."""
    offload: Literal["model", "group", "layerwise"] | None = None
    """For models that are larger than the device: model keeps on the GPU only the part that runs, group only the
    layer; layerwise holds the denoiser's weights in 8 bits and casts each layer as it runs (any device, lossy)."""
    optimize: str = "auto"
    """auto: what is equal within rounding and was measured to be quicker here, found at a model's first loading and
    remembered; off: nothing; or several by name: compile, vae_slicing, vae_tiling, channels_last, fuse_qkv,
    cpu_offload, group_offload, layerwise_casting, tf32, cuda_graphs, deterministic."""

    def set(self) -> dict[str, "Optimizations"]:
        """`optimizations`, unless everything is left to defaults. Raises as `optimizations` does."""
        return {"optimizations": self.optimizations()} if self != SpeedFlags() else {}

    def optimizations(self) -> "Optimizations":
        """Raises `InvalidRequestError` for a name that is not known."""
        from interlace.models.optimize import Optimizations

        names = ("compile", "cuda_graphs", "vae_slicing", "vae_tiling", "cpu_offload")
        wanted = [name for name in names if getattr(self, f"enable_{name}")]
        wanted += ["deterministic"] if self.deterministic else []
        if self.offload is not None:
            wanted.append({"model": "cpu_offload", "group": "group_offload"}.get(self.offload, "layerwise_casting"))
        chosen = "" if self.optimize == "off" else self.optimize
        listed = [name.strip().replace("-", "_") for name in chosen.split(",") if name.strip()]
        return Optimizations(attention_backend=self.attention_backend, names=(*wanted, *listed))


@Parameter(name="*", group=ModelGroup)
@dataclass(frozen=True, kw_only=True)
class ExtraFlags(Extras):
    """What is brought to the model, as flags."""


@Parameter(name="*", group=PictureGroup)
@dataclass(frozen=True, kw_only=True)
class PictureFlags:
    """Sampling parameters that hold for every row without its own."""

    height: int | None = None
    """Pixels; or both sides with --size WIDTHxHEIGHT."""
    width: int | None = None
    """Pixels."""
    num_inference_steps: int | None = None
    """Denoising steps."""
    guidance_scale: float | None = None
    """How strongly the prompt counts (distilled guidance in models that have it)."""
    true_cfg_scale: float | None = None
    """Classifier-free guidance against the negative prompt, in models that tell it from guidance_scale."""
    negative_prompt: str | None = None
    """What should not be in the picture."""
    strength: float | None = None
    """Of an image-to-image model: 0 keeps the image, 1 ignores it."""
    sampler: str | None = None
    """In the place of the model's scheduler: "Euler a", "DPM++ 2M Karras", ..., or a class of diffusers."""
    use_lora: str | None = None
    """The adapters of rows that name none, as NAME[:WEIGHT], several with commas. By default those of --lora for
    prompts on the command line, and none for rows of a file."""
    num_images: int = 1
    """Images a row."""

    def sampling(self, extras: Extras, *, from_file: bool) -> SamplingParams:
        """What holds for rows that say nothing else. `from_file`: rows that could have named adapters themselves.

        Raises `InvalidRequestError` for values outside their range."""
        values = {name: value for name, value in asdict(self).items() if name != "use_lora"}
        lora = parse_lora(self.use_lora)
        if lora is None and not from_file and not extras.lora_syntax:
            names = [
                text.partition("=")[0] if "=" in text else Path(text.partition(":")[0]).stem for text in extras.lora
            ]
            lora = tuple(LoraChoice(name.strip()) for name in names) or None
        return SamplingParams(**values, lora=lora)


@Parameter(name="*", group=PictureGroup)
@dataclass(frozen=True, kw_only=True)
class FilmFlags(PictureFlags):
    """Sampling parameters of films."""

    num_frames: int | None = None
    """Frames of a film; or its length with --seconds."""
    seconds: float | None = None
    """How long a film is to be, to the nearest number of frames that the model can make."""
    fps: float | None = None
    """Frames a second; by default the model's usual rate."""
    flow_shift: float | None = None
    """Of the scheduler: more of the steps at high noise, as larger films want it."""
    num_images: int = 1
    """Films a row."""

    def __post_init__(self) -> None:
        if self.seconds is not None and self.num_frames is not None:
            text = "--seconds and --num-frames both say how long a film is; leave one of them out"
            raise InvalidRequestError(text, "seconds")


@Parameter(name="*", group=PictureGroup)
@dataclass(frozen=True, kw_only=True)
class SoundFlags:
    """Sampling parameters of sounds."""

    seconds: float | None = None
    """How long a sound is to be."""
    num_inference_steps: int | None = None
    """Denoising steps."""
    guidance_scale: float | None = None
    """How strongly the prompt counts."""
    negative_prompt: str | None = None
    """What should not be heard."""
    sampler: str | None = None
    """In the place of the model's scheduler: a class of diffusers."""
    num_images: int = 1
    """Sounds a row."""
