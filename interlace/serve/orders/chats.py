"""Conversations as orders: chat completions, OpenAI's responses and Gemini's contents come down to the same."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from interlace.serve.http.errors import invalid
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.jobs.models import Lane, Lanes
from interlace.serve.leniency.sift import sift
from interlace.serve.orders.conversation import Conversation, read_conversation
from interlace.serve.orders.fields import EditFields, GenerationFields, Sampling
from interlace.serve.orders.images import edit_order, generation_order
from interlace.serve.orders.order import Order

_LANGUAGE = ("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "stop")
_OWN = (*_LANGUAGE, "messages", "stream", "stream_options", "modalities", "image_config")
_NOT_READ = "the system message is ignored: this model reads the prompt alone"


def chat_order(fields: Sampling, messages: Sequence[Mapping[str, object]], lanes: Lanes) -> Order:
    """What the last message asks for, of its pictures or the last one before it. Raises `ApiError` for what can't be.

    `fields` has the picture's and the language model's fields together. Runs in a worker: pictures are decoded.
    """
    talk = read_conversation(messages)
    given = fields.model_dump(exclude_none=True)
    values = {name: value for name, value in given.items() if name not in _OWN}
    warnings = [*fields.warnings, *configured(values, given.get("image_config") or {})]
    language = {name: given[name] for name in _LANGUAGE if name in given}
    return order_of(talk, values, lanes, warnings, language=language)


def order_of(
    talk: Conversation,
    values: Mapping[str, object],
    lanes: Lanes,
    warnings: list[str],
    *,
    language: Mapping[str, object] | None = None,
    param: str = "messages",
    mask: object = None,
) -> Order:
    """A conversation and the fields of its picture as an order. `language` is sampling of a stage that writes."""
    order = _drawn(talk, {**values, "prompt": talk.prompt}, lanes, warnings, param, mask)
    stages = _stages(language or {}, order.lane, lanes.settings.strict_fields, warnings)
    if talk.system and "ar" not in _stage_types(order.lane):
        warnings.append(_NOT_READ)
    return replace(order.over_stages(stages), warnings=(*warnings, *order.warnings))


def _drawn(
    talk: Conversation, values: Mapping[str, Any], lanes: Lanes, warnings: list[str], param: str, mask: Any
) -> Order:
    images = talk.images
    if not images and talk.earlier is not None:
        if lanes.edit is not None:
            images = [talk.earlier]
        else:
            warnings.append("the conversation's last picture is not changed but drawn anew: no model here edits")
    if not images:
        return generation_order(GenerationFields.model_validate(values), lanes)
    lanes.choose(values.get("model"), edit=True)
    settings = lanes.settings
    if len(images) > settings.max_input_images:
        raise invalid(f"{len(images)} pictures; this server allows {settings.max_input_images}", param)
    pictures = [decode_image(image_bytes(one, settings), settings) for one in images]
    alpha = None if mask is None else decode_image(image_bytes(mask, settings, "mask"), settings, "mask", alpha=True)
    return edit_order(EditFields.model_validate(values), pictures, alpha, lanes)


def configured(values: dict[str, object], config: Mapping[str, object]) -> list[str]:
    """OpenRouter's and Gemini's way to say the size: puts the ratio in `values`, warns of what has no counterpart."""
    warnings = []
    for name, value in config.items():
        if value in (None, "") or (name, value) == ("image_size", "1K"):
            continue
        if name == "aspect_ratio":
            values.setdefault("aspect_ratio", value)
        else:
            warnings.append(f"image_config.{name} is ignored: give size")
    if values.get("size") not in (None, "auto"):
        values.pop("aspect_ratio", None)
    return warnings


def _stages(language: Mapping[str, Any], lane: Lane, strict: bool, warnings: list[str]) -> list[dict[str, Any]]:
    """Sampling of the language models' stages; where there is none it is ignored, with warnings."""
    types = _stage_types(lane)
    if "ar" not in types:
        warnings += sift(dict(language), (), strict=strict)[1]
        return [{} for _ in types]
    names = {"max_completion_tokens": "max_tokens"}
    told = {names.get(name, name): value for name, value in language.items()}
    return [dict(told) if one == "ar" else {} for one in types]


def _stage_types(lane: Lane) -> list[str]:
    return [config.stage_type for config in lane.omni.configs]
