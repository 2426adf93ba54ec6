"""The fields of a speaking server's requests, as OpenAI names them, and a few more."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(max_length=256)]
Format = Literal["wav", "pcm16", "pcm", "flac", "ogg", "opus", "mp3", "aac"]


class AudioFields(BaseModel):
    """How speech is to come."""

    model_config = ConfigDict(extra="forbid")

    voice: Name | dict[str, str] | None = None
    format: Format | None = Field(
        None,
        description="wav, pcm16 (16 bits, little-endian), mp3, flac, opus, aac; streamed: wav, pcm16.",
    )


class MediaFields(BaseModel):
    """How media are read."""

    model_config = ConfigDict(extra="forbid")

    use_audio_in_video: bool = False


class WritingFields(BaseModel):
    """What chats and /generate have in common."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    model: Name | None = None
    modalities: list[Literal["text", "audio"]] | None = Field(None, min_length=1)
    audio: AudioFields | None = None
    speech: dict[str, bool | int | float] | None = Field(
        None, description="How the talker samples: do_sample, temperature, top_k, top_p, max_tokens, ..."
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    mm_processor_kwargs: Annotated[MediaFields | None, Field(description="As vLLM has it: use_audio_in_video.")] = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    user: Name | None = None


class ConversationFields(WritingFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="As max_tokens.")
    n: Annotated[int, Field(ge=1, le=1)] | None = Field(None, description="1: one answer.")
    stream: bool | None = None
    stream_options: dict[str, Any] | None = Field(None, description="Usage is always told.")


class SpeechFields(BaseModel):
    """POST /v1/audio/speech."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    input: Annotated[str, Field(min_length=1)]
    model: Name | None = None
    voice: Name | dict[str, str] | None = None
    response_format: Format | None = None
    instructions: str | None = Field(None, description="How it is to be said: told the model beside the text.")
    speed: Annotated[float, Field(ge=1, le=1)] | None = Field(None, description="1: as the model speaks.")
    stream_format: Literal["audio"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    speech: dict[str, bool | int | float] | None = None


class MediaPromptFields(WritingFields):
    """POST /generate."""

    prompt: str | None = None
    multi_modal_data: dict[str, Any] | None = None
    sampling_params: dict[str, Any] | None = Field(None, description="The fields above, in one object.")
