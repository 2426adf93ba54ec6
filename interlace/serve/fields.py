"""The fields of requests, for checking and for the OpenAPI schema. What isn't listed here is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[str, Field(max_length=16, pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")]
Guidance = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]
Name = Annotated[str, Field(max_length=256)]


class Sampling(BaseModel):
    """Fields beyond OpenAI's, at the top level as `extra_body` sends them. Left out: the model's default."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    seed: Seed | None = Field(None, description="Of the first picture; picture i has seed + i. Random when left out.")
    negative_prompt: str | None = Field(None, description="What should not be in the picture.")
    num_inference_steps: Annotated[int, Field(ge=1)] | None = Field(None, description="Denoising steps.")
    guidance_scale: Guidance | None = Field(None, description="How strongly the prompt counts.")
    true_cfg_scale: Guidance | None = Field(None, description="Guidance against the negative prompt.")
    width: Annotated[int, Field(ge=1)] | None = Field(None, description="Pixels; instead of size.")
    height: Annotated[int, Field(ge=1)] | None = Field(None, description="Pixels; instead of size.")
    strength: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="0 keeps the picture, 1 ignores it.")
    hold_guidance_after: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of the steps after which guidance is held: faster, and lossy."
    )
    max_sequence_length: Annotated[int, Field(ge=1, le=4096)] | None = Field(None, description="Text tokens.")
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(None, description="Higher goes first.")
    timeout_s: Annotated[float, Field(gt=0, le=86400)] | None = Field(None, description="Seconds; then a 504.")
    lora: Any = Field(None, description="Refused: adapters can't be chosen by request yet.")
    extra_params: dict[str, bool | int | float | str | None] | None = Field(
        None, description="Further arguments of the pipeline's own call: plain values."
    )


class ImageFields(Sampling):
    """What generations and edits share."""

    prompt: Annotated[str, Field(min_length=1)] = Field(description="What the picture shows, or what to change.")
    model: Name | None = Field(None, description="See /v1/models.")
    n: Annotated[int, Field(ge=1)] | None = Field(None, description="Number of pictures.")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto.")
    quality: Quality | None = Field(
        None, description="Steps: low half, medium all, high 1.5 times the model's default."
    )
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] | None = Field(None, description="png, webp or jpeg.")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(None, description="Of webp and jpeg.")
    background: Literal["transparent", "opaque", "auto"] | None = Field(None, description="Pictures are opaque.")
    moderation: Literal["low", "auto"] | None = Field(None, description="This server has no filter of its own.")
    user: Name | None = Field(None, description="Kept with the request, and logged.")
    safety_identifier: Name | None = Field(None, description="As user.")
    response_format: Literal["url", "b64_json"] | None = Field(None, description="b64_json unless said otherwise.")
    stream: bool | None = Field(None, description="Server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(None, description="Previews in a stream.")
    complexity: Literal["low", "medium", "high"] | None = Field(None, description="Refused.")
    frame_count: int | None = Field(None, description="Refused: GIF only.")
    frame_duration_ms: int | None = Field(None, description="Refused: GIF only.")
    svg: dict[str, Any] | None = Field(None, description="Refused.")
    run_async: bool | None = Field(None, alias="async", description="Answer 202 at once; see /v1/requests/{id}.")


class GenerationFields(ImageFields):
    """POST /v1/images/generations."""

    style: Literal["vivid", "natural"] | None = Field(None, description="Refused: say it in the prompt.")


class EditFields(ImageFields):
    """POST /v1/images/edits. Pictures: files in a form; base64, data URLs or {"image_url": ...} in JSON."""

    image: Any = Field(None, description="A picture, or a list of them.")
    images: list[Any] | None = Field(None, description="As image.")
    mask: Any = Field(None, description="A picture of the same size, transparent where to edit.")
    markup: Any = Field(None, description="Refused.")
    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="Refused: use strength where a model has it."
    )


class VideoFields(Sampling):
    """POST /v1/videos."""

    prompt: Annotated[str, Field(min_length=1)]
    model: Name | None = None
    seconds: Annotated[str, Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,3})?$")] | None = Field(None, description="Of film.")
    size: Size | None = None
    num_frames: Annotated[int, Field(ge=1)] | None = Field(None, description="Instead of seconds.")
    input_reference: Any = Field(None, description="A first picture, for models that take one.")
    user: Name | None = None


class GenerateFields(BaseModel):
    """POST /generate: one or many prompts, texts or objects with their own parameters and pictures."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    prompt: str | dict[str, Any] | list[str | dict[str, Any]] | None = Field(
        None, description='A text, {"prompt", "multi_modal_data": {"image": ...}, ...parameters}, or a list of these.'
    )
    prompts: list[str | dict[str, Any]] | None = Field(None, description="As prompt.")
    sampling_params: dict[str, Any] | None = Field(None, description="For all prompts; a prompt's own win.")
    multi_modal_data: dict[str, Any] | None = Field(None, description='{"image": base64 or a list}: for all prompts.')
    model: Name | None = None
    output_format: Literal["png", "webp", "jpeg"] = "png"
    stage_args: list[dict[str, Any]] | None = Field(None, description="Parameters for each stage, in order.")
