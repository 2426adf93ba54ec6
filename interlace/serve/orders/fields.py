"""The fields that requests honour, for checking and for the OpenAPI schema. `serve/leniency` knows the others."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from interlace.media.formats.table import IMAGES
from interlace.serve.leniency.sift import sift

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[str, Field(max_length=16, pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")]
Guidance = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]
Name = Annotated[str, Field(max_length=256)]
PictureFormat = Annotated[str, Field(max_length=32, description="One of " + ", ".join(IMAGES) + ".")]
AspectRatio = Annotated[str, Field(max_length=9, pattern=r"^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$")]
Seconds = Annotated[str, BeforeValidator(lambda value: f"{value:g}" if type(value) in (int, float) else value),
                    Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,3})?$")]  # fmt: skip


class Fields(BaseModel):
    """One endpoint's own fields, and the `warnings` about fields that were sent and are ignored."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)
    _warnings: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def of(cls, values: Mapping[str, object], *, is_form: bool = False, strict_fields: bool = False) -> Self:
        """Checked. Values of a form are texts. Raises `InvalidRequestError` for what is refused, pydantic's
        ValidationError for what is wrong; both are answered as a 400."""
        kept, warnings = sift(dict(values), cls.names(), strict=strict_fields)
        fields = cls.model_validate(kept, strict=not is_form, by_alias=True, by_name=False)
        fields._warnings = warnings
        return fields

    @classmethod
    def names(cls) -> list[str]:
        """As clients write them."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @property
    def warnings(self) -> list[str]:
        """What was sent and is ignored, and why: one text each."""
        return self._warnings


class Sampling(Fields):
    """Fields beyond OpenAI's, at the top level as `extra_body` sends them. Left out: the model's default."""

    seed: Seed | None = Field(None, description="Of the first picture; picture i has seed + i. Random when left out.")
    negative_prompt: str | None = Field(None, description="What should not be in the picture.")
    num_inference_steps: Annotated[int, Field(ge=1)] | None = Field(None, description="Denoising steps.")
    guidance_scale: Guidance | None = Field(None, description="How strongly the prompt counts.")
    true_cfg_scale: Guidance | None = Field(None, description="Guidance against the negative prompt.")
    width: Annotated[int, Field(ge=1)] | None = Field(None, description="Pixels; instead of size.")
    height: Annotated[int, Field(ge=1)] | None = Field(None, description="Pixels; instead of size.")
    aspect_ratio: AspectRatio | None = Field(None, description="As 16:9; instead of size, in the default's area.")
    strength: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="0 keeps the picture, 1 ignores it.")
    hold_guidance_after: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of the steps after which guidance is held: faster, and lossy."
    )
    max_sequence_length: Annotated[int, Field(ge=1, le=4096)] | None = Field(None, description="Text tokens.")
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(None, description="Higher goes first.")
    timeout_s: Annotated[float, Field(gt=0, le=86400)] | None = Field(None, description="Seconds; then a 504.")
    lora: Any = Field(None, description='Adapters: a name, {"name", "scale"}, or a list of these. See /v1/loras.')
    controlnet: Any = Field(
        None,
        description='ControlNets: {"name", "image", "scale", "start", "end", "mode"}, or a list of these.',
    )
    ip_adapter: Any = Field(None, description='IP-Adapters: {"name", "image", "scale"}, or a list of these.')
    sampler: Name | None = Field(None, description="In the place of the model's scheduler: Euler a, DPM++ 2M Karras.")
    extra_params: dict[str, bool | int | float | str | None] | None = Field(
        None, description="Further arguments of the pipeline's own call: plain values."
    )


class ImageFields(Sampling):
    """What generations and edits share."""

    needs_words: ClassVar[bool] = True
    prompt: Annotated[str, Field(min_length=1)] = Field(description="What the picture shows, or what to change.")
    model: Name | None = Field(None, description="See /v1/models.")
    n: Annotated[int, Field(ge=1)] | None = Field(None, description="Number of pictures.")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto.")
    quality: Quality | None = Field(
        None, description="Steps: low half, medium all, high 1.5 times the model's default."
    )
    output_format: PictureFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(None, description="Of webp and jpeg.")
    background: Literal["transparent", "opaque", "auto"] | None = Field(None, description="Pictures are opaque.")
    moderation: Literal["low", "auto"] | None = Field(None, description="This server has no filter of its own.")
    user: Name | None = Field(None, description="Kept with the request, and logged.")
    safety_identifier: Name | None = Field(None, description="As user.")
    response_format: Literal["url", "b64_json", "file"] | None = Field(
        None, description="As --response-format unless said otherwise; file: the answer is the picture itself."
    )
    stream: bool | None = Field(None, description="Server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(None, description="Previews in a stream.")
    run_async: bool | None = Field(None, alias="async", description="Answer 202 at once; see /v1/requests/{id}.")


class GenerationFields(ImageFields):
    """POST /v1/images/generations."""


class EditFields(ImageFields):
    """POST /v1/images/edits. Pictures: files in a form; base64, data URLs or {"image_url": ...} in JSON."""

    image: Any = Field(None, description="A picture, or a list of them.")
    images: list[Any] | None = Field(None, description="As image.")
    mask: Any = Field(None, description="A picture of the same size, transparent where to edit.")


class VideoFields(Sampling):
    """POST /v1/videos."""

    prompt: Annotated[str, Field(min_length=1)]
    model: Name | None = None
    seconds: Seconds | None = Field(None, description="Of film, as a number or a text.")
    fps: Annotated[float, Field(gt=0, le=240)] | None = Field(None, description="Frames a second.")
    size: Size | None = None
    num_frames: Annotated[int, Field(ge=1)] | None = Field(None, description="Instead of seconds.")
    input_reference: Any = Field(None, description="A first picture, for models that take one.")
    output_format: Literal["mp4", "webm", "webp", "gif", "frames"] | None = Field(
        None, description="mp4 (animated webp where PyAV isn't installed); frames: a zip of PNGs."
    )
    flow_shift: Annotated[float, Field(gt=0, le=1000)] | None = Field(None, description="Of the scheduler.")
    guidance_scale_2: Guidance | None = Field(None, description="Of the second denoiser, in models of two.")
    boundary_ratio: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="The model's own, or none.")
    generate_sound: bool | None = Field(None, description="Of models that make sound beside the film.")
    user: Name | None = None


class RemixFields(Fields):
    """POST /v1/videos/{id}/remix."""

    prompt: Annotated[str, Field(min_length=1)]


SoundFormat = Literal["wav", "mp3", "flac", "pcm", "aac", "opus", "ogg"]


class SoundFields(Sampling):
    """POST /v1/audio/generate."""

    prompt: Annotated[str, Field(min_length=1)] = Field(description="What is to be heard; also called input.")
    model: Name | None = None
    seconds: Seconds | None = Field(None, description="How long; also called audio_length.")
    response_format: SoundFormat | None = Field(None, description="Of the file that is the answer; wav.")
    run_async: bool | None = Field(None, alias="async", description="Answer 202 at once; see /v1/requests/{id}.")
    user: Name | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], *, is_form: bool = False, strict_fields: bool = False) -> Self:
        """As of all fields; `input` is the prompt's other name, of peers."""
        if "input" in values and "prompt" not in values:
            values = {"prompt" if name == "input" else name: value for name, value in values.items()}
        return super().of(values, is_form=is_form, strict_fields=strict_fields)

    @property
    def text(self) -> str:
        """What is to be heard."""
        return self.prompt


class DescribedSoundFields(Fields):
    """POST /v1/audio/speech in OpenAI's shape, for models that make sound from a description."""

    input: Annotated[str, Field(min_length=1)] = Field(description="What is to be heard.")
    model: Name | None = None
    voice: Any = Field(None, description="Has no use: these models speak no words.")
    response_format: SoundFormat | None = Field(None, description="Of the file that is the answer; mp3.")
    seconds: Seconds | None = None

    @property
    def text(self) -> str:
        """What is to be heard."""
        return self.input


class GenerateFields(Fields):
    """POST /generate: one or many prompts, texts or objects with their own parameters and pictures."""

    prompt: str | dict[str, Any] | list[str | dict[str, Any]] | None = Field(
        None, description='A text, {"prompt", "multi_modal_data": {"image": ...}, ...parameters}, or a list of these.'
    )
    prompts: list[str | dict[str, Any]] | None = Field(None, description="As prompt.")
    sampling_params: dict[str, Any] | None = Field(None, description="For all prompts; a prompt's own win.")
    multi_modal_data: dict[str, Any] | None = Field(None, description='{"image": base64 or a list}: for all prompts.')
    model: Name | None = None
    output_format: PictureFormat = "png"
    stage_args: list[dict[str, Any]] | None = Field(None, description="Parameters for each stage, in order.")
