"""Chats as requests: roles, texts, and media from strangers, each checked before it is decoded."""

from collections.abc import Mapping
from typing import Any

from interlace.media.film import film_size
from interlace.request import ARSamplingParams, Request
from interlace.serve.http.errors import invalid
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.settings import ServeSettings
from interlace.serve.speaking.fields import AudioFields, WritingFields

_ROLES = ("system", "developer", "user", "assistant")
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "stop", "seed")


def conversation(messages: list[dict[str, Any]], settings: ServeSettings) -> list[dict[str, Any]]:
    """OpenAI's messages as a stage takes them, their media decoded. May fetch: call it in a worker.

    Raises `ApiError`.
    """
    made, count = [], 0
    for message in messages:
        role = message.get("role")
        if role not in _ROLES:
            raise invalid(f"a message's role is {role!r}; expected {', '.join(_ROLES)}", "messages")
        unknown = set(message) - {"role", "content", "name", "audio", "refusal"}
        if unknown:
            raise invalid(f"a message has {sorted(unknown)[0]!r}; expected role and content", "messages")
        parts = [_part(part, settings) for part in _parts(message)]
        count += sum(part["type"] != "text" for part in parts)
        if count > settings.max_input_images:
            text = f"more than {settings.max_input_images} pictures, sounds and films; this server allows so many"
            raise invalid(text, "messages")
        made.append({"role": "system" if role == "developer" else role, "content": parts})
    if made[-1]["role"] != "user":
        raise invalid(f"the last message's role is {messages[-1].get('role')!r}; expected user", "messages")
    if not made[-1]["content"]:
        raise invalid("the last message is empty; expected a text or media", "messages")
    return made


def request_of(
    fields: WritingFields,
    name: str,
    messages: list[dict[str, Any]],
    *,
    say: str | None = None,
    stream_audio: bool = False,
) -> Request:
    """A conversation with its sampling as a request. Raises `InvalidRequestError` for values that make no sense."""
    given = {key: getattr(fields, key) for key in _SAMPLING if getattr(fields, key) is not None}
    longest = getattr(fields, "max_completion_tokens", None)
    if longest is not None:
        given["max_tokens"] = longest
    if isinstance(given.get("stop"), list):
        given["stop"] = tuple(given["stop"])
    sampling = ARSamplingParams(
        **given,
        modalities=tuple(fields.modalities) if fields.modalities else None,
        voice=voice_of(fields.audio),
        speech=fields.speech or {},
        stream_audio=stream_audio,
    )
    texts = [part["text"] for part in messages[-1]["content"] if part["type"] == "text"]
    inputs: dict[str, Any] = {"messages": messages} if say is None else {"messages": messages, "say": say}
    if fields.mm_processor_kwargs is not None and fields.mm_processor_kwargs.use_audio_in_video:
        inputs["use_audio_in_video"] = True
    return Request(request_id=name, prompt="\n".join(texts), sampling=sampling, model_inputs=inputs)


def voice_of(audio: AudioFields | None) -> str | None:
    """A voice by name, or as OpenAI's custom ones: {"id": name}."""
    voice = audio.voice if audio is not None else None
    return voice.get("id") if isinstance(voice, Mapping) else voice


def media_of(kind: str, value: Any, settings: ServeSettings) -> Any:
    """A picture, the bytes of a sound or of a film, from base64, a data URL or, where allowed, another URL."""
    data = image_bytes(value, settings, kind)
    if kind == "video" and (size := film_size(data)) is not None and size[0] * size[1] > settings.max_input_pixels:
        text = f"the film has {size[0]}x{size[1]} pixels; this server allows {settings.max_input_pixels}: scale it down"
        raise invalid(text, "video")
    return decode_image(data, settings) if kind == "image" else data


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    if content is None:
        spoken = message.get("audio")  # of an answer before: known by its transcript alone
        if message.get("role") == "assistant" and spoken is not None:
            text = "messages: audio of an answer is not kept here; send its transcript as content"
            raise invalid(text, "messages")
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise invalid("a message's content is neither a text nor a list of parts", "messages")
    return content


def _part(part: Any, settings: ServeSettings) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        if len(part["text"]) > settings.max_prompt_chars:
            text = f"a text has {len(part['text'])} characters; this server allows {settings.max_prompt_chars}"
            raise invalid(text, "messages", "prompt_too_long")
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        return {"type": "image", "image": media_of("image", part, settings)}
    if kind == "video_url":
        return {"type": "video", "video": media_of("video", _inner(part, "video_url"), settings)}
    if kind == "audio_url":
        return {"type": "audio", "audio": media_of("audio", _inner(part, "audio_url"), settings)}
    if kind == "input_audio":
        sound = part.get("input_audio")
        if not isinstance(sound, Mapping):
            raise invalid(f"input_audio is a {type(sound).__name__}; expected data in base64 and format", "messages")
        return {"type": "audio", "audio": media_of("audio", sound.get("data"), settings)}
    expected = "text, image_url, input_audio, audio_url or video_url"
    raise invalid(f"a content part's type is {kind!r}; expected {expected}", "messages")


def _inner(part: Mapping[str, Any], name: str) -> Any:
    value = part.get(name)
    return value.get("url") if isinstance(value, Mapping) else value
