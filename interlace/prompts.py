"""A prompt as users write it (a text, or a dict) as a `Request`. Knows nothing of models and of torch."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.python.given import gathered_media, overlaid
from interlace.request import AnySampling, Request, fields_of, set_fields

Prompt = str | Mapping[str, Any] | Request
_OWN = ("prompt", "multi_modal_data", "request_id")


def parse_prompt(item: str | Mapping[str, Any], sampling: AnySampling, request_id: str) -> Request:
    """A text, or a dict with "prompt", sampling fields, "multi_modal_data" and "request_id", as a `Request`.

    Fields of the dict override `sampling`. Raises `InvalidRequestError` for an unknown field or a wrong value.
    """
    if isinstance(item, str):
        return Request(request_id=request_id, prompt=item, sampling=sampling)
    if not isinstance(item, Mapping):
        raise InvalidRequestError(f"a prompt is a {type(item).__name__}; expected a text or a dict with 'prompt'")
    item = gathered_media(item)
    fields = {name: value for name, value in item.items() if name not in _OWN}
    check_fields(fields, fields_of(type(sampling)))
    images, others = parse_media(item.get("multi_modal_data"))
    return Request(
        request_id=str(item.get("request_id", request_id)),
        prompt=parse_text(item.get("prompt")),
        sampling=overlaid(sampling, fields),
        images=images,
        model_inputs=others,
    )


def as_prompt(request: Request) -> dict[str, object]:
    """A request as a dict that `parse_prompt` would read in the same way."""
    media = dict(request.model_inputs)
    if request.images:
        media["image"] = list(request.images)
    own = {} if request.prompt is None else {"prompt": request.prompt}
    return {**own, **({"multi_modal_data": media} if media else {}), **set_fields(request.sampling)}


def parse_text(prompt: object) -> str | None:
    """A prompt's text. Raises `InvalidRequestError` for anything else."""
    if prompt is not None and not isinstance(prompt, str):
        raise InvalidRequestError(
            f"prompt is a {type(prompt).__name__}; expected one text: submit several prompts as several requests",
            "prompt",
        )
    return prompt


def parse_media(media: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """`multi_modal_data` as the pictures, and the other inputs by argument name. Raises `InvalidRequestError`."""
    if media is not None and not isinstance(media, Mapping):
        text = f"multi_modal_data is a {type(media).__name__}; expected a dict such as {{'image': picture}}"
        raise InvalidRequestError(text, "multi_modal_data")
    others = dict(media or {})
    images = others.pop("image", None)
    if images is None:
        return (), others
    return tuple(images) if isinstance(images, (list, tuple)) else (images,), others


def check_fields(given: Mapping[str, object], known: Sequence[str] | frozenset[str]) -> None:
    """Raises `InvalidRequestError` for a field that a request can't have, with what was probably meant."""
    for name in given:
        if name not in known:
            names = [*_OWN, *sorted(known)]
            close = get_close_matches(str(name), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}"
            raise InvalidRequestError(f"unknown field {name!r}; {hint}", str(name))
