"""A conversation as what there is to draw: the last message's words and pictures, and the last picture before it.

Reads the messages of chat completions and the items of OpenAI's responses; both put words and pictures into parts.
Pictures stay as they were sent. Knows nothing of models.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interlace.serve.http.errors import invalid

_SYSTEM = ("system", "developer")
_IN_MARKDOWN = re.compile(r"!\[[^\]]*\]\((data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+)\)")
_TEXT_KINDS = ("text", "input_text", "output_text")
_IMAGE_KINDS = ("image_url", "input_image", "image")


@dataclass(frozen=True)
class Conversation:
    """`images` came with the prompt; `earlier` is the last picture before it; `system` are the system messages."""

    prompt: str
    images: list[Any] = field(default_factory=list)
    earlier: Any = None
    system: list[str] = field(default_factory=list)


def read_conversation(messages: Sequence[Mapping[str, object]], param: str = "messages") -> Conversation:
    """Raises `ApiError` where the last message isn't a user's, or has parts that are neither words nor pictures."""
    last = messages[-1]
    if last.get("role") != "user":
        raise invalid(f"the last message's role is {last.get('role')!r}; expected user", param)
    texts, images = _sorted_parts(last.get("content"), param)
    earlier = next((found for message in reversed(messages[:-1]) for found in _last_picture(message)), None)
    told = [_words(message.get("content")) for message in messages if message.get("role") in _SYSTEM]
    return Conversation("\n".join(texts), images, earlier, [text for text in told if text.strip()])


def _sorted_parts(content: Any, param: str) -> tuple[list[str], list[Any]]:
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, list):
        raise invalid("the last message's content is neither a text nor a list of parts", param)
    texts: list[str] = []
    images: list[Any] = []
    for part in content:
        kind = _kind(part)
        if kind == "text":
            texts.append(part if isinstance(part, str) else part["text"])
        elif kind == "image":
            images.append(part)
        else:
            got = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise invalid(f"a content part's type is {got!r}; expected text or image_url", param)
    return texts, images


def _kind(part: Any) -> str | None:
    """text or image, also of a part that doesn't say its type; None for anything else."""
    if isinstance(part, str):
        return "text"
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    if kind in _TEXT_KINDS or (kind is None and "text" in part):
        return "text" if isinstance(part.get("text"), str) else None
    if kind in _IMAGE_KINDS or (kind is None and "image_url" in part):
        return "image"
    return None


def _last_picture(message: Mapping[str, Any]) -> Iterator[Any]:
    """The pictures of an earlier message, the last first; what else it holds doesn't matter any more."""
    if message.get("type") == "image_generation_call" and message.get("result"):
        yield message["result"]
    images = message.get("images")
    yield from reversed(images if isinstance(images, list) else [])
    content = message.get("content")
    if isinstance(content, str):
        yield from reversed(_IN_MARKDOWN.findall(content))
    elif isinstance(content, list):
        yield from (part for part in reversed(content) if _kind(part) == "image")


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part if isinstance(part, str) else part["text"] for part in parts if _kind(part) == "text")
