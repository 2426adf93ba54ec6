"""How a request names adapters (LoRA), ControlNets and IP-Adapters: by name, with weights. No torch, no files."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interlace.checks import check_number
from interlace.errors import InvalidRequestError

_SYNTAX = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")  # A1111's; it ignores what follows the weight
_SCALES = ("scale", "weight", "strength")
_PATHS = ("path", "local_path", "lora_path")
_OTHERS = ("int_id", "id")  # of vLLM-Omni, where adapters have numbers
_MAX_SCALE = 100.0
NO_ADAPTERS = "none"
# Other names of the same: of A1111's extension and diffusers.
_SAME_OF_CONTROLS = {
    "model": "name",
    "input_image": "image",
    "control_image": "image",
    "weight": "scale",
    "strength": "scale",
    "conditioning_scale": "scale",
    "guidance_start": "start",
    "guidance_end": "end",
}


@dataclass(frozen=True)
class LoraChoice:
    """An adapter of a request and its weight; `path` where the request says which file it means."""

    name: str
    scale: float = 1.0
    path: str | None = None


def parse_lora(value: object) -> tuple[LoraChoice, ...] | None:
    """What a request says of adapters; None where it says nothing, () where it wants none.

    A name, `"name:0.8"`, `"a:0.8, b"`, `{"name": ..., "scale": ...}` (vLLM-Omni's too, with `path` or `local_path`),
    `{name: scale, ...}`, a list of these, JSON of these, or "none". Raises `InvalidRequestError`.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    choices = _parsed(value)
    names = [choice.name for choice in choices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequestError(f"lora names {twice!r} twice; add the weights up", "lora")
    return choices


def from_prompt(prompt: str) -> tuple[str, tuple[LoraChoice, ...]]:
    """A prompt without its `<lora:NAME:WEIGHT>`s, and what they say; the weights of one that is there twice add up."""
    found: dict[str, float] = {}
    for match in _SYNTAX.finditer(prompt):
        name = match[1].strip()
        found[name] = found.get(name, 0.0) + _scale(match[2] if match[2] else 1.0)
    if not found:
        return prompt, ()
    text = re.sub(r"[ \t]{2,}", " ", _SYNTAX.sub("", prompt)).strip(" ,")
    return text, tuple(LoraChoice(name, scale) for name, scale in found.items())


def as_plain(choices: Sequence[LoraChoice]) -> list[dict[str, Any]]:
    """As JSON can hold it, and `parse_lora` reads it."""
    return [
        {"name": one.name, "scale": one.scale} | ({} if one.path is None else {"path": one.path}) for one in choices
    ]


def _parsed(value: Any) -> tuple[LoraChoice, ...]:
    if isinstance(value, LoraChoice):
        return (value,)
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if isinstance(value, Sequence):
        return tuple(choice for one in value for choice in _parsed(one))
    raise _wrong(value)


def _from_text(text: str) -> tuple[LoraChoice, ...]:
    if text.lower() == NO_ADAPTERS:
        return ()
    if text.startswith(("{", "[")):
        try:
            return _parsed(json.loads(text))
        except ValueError as error:
            raise InvalidRequestError(f"lora is {text!r}, which is no JSON: {error}", "lora") from error
    choices = []
    for part in text.split(","):
        name, colon, scale = part.strip().rpartition(":")
        name, scale = (name, scale) if colon else (scale, "1")
        if not name.strip():
            raise _wrong(text)
        choices.append(LoraChoice(name.strip(), _scale(scale)))
    return tuple(choices)


def _from_mapping(value: Mapping[Any, Any]) -> tuple[LoraChoice, ...]:
    if not {"name", "lora_name", *_PATHS} & value.keys():
        if not all(isinstance(key, str) and key.strip() for key in value):
            raise _wrong(value)
        return tuple(LoraChoice(name, _scale(scale)) for name, scale in value.items())
    unknown = value.keys() - {"name", "lora_name", *_SCALES, *_PATHS, *_OTHERS}
    if unknown:
        text = f"lora has {sorted(map(str, unknown))[0]!r}; expected name, scale"
        raise InvalidRequestError(f"{text} and, for a file under --lora-dir, path", "lora")
    path = next((value[key] for key in _PATHS if value.get(key) is not None), None)
    name = value.get("name", value.get("lora_name"))
    if name is None and isinstance(path, str):
        name = path.rstrip("/").rpartition("/")[2].removesuffix(".safetensors")
    if not isinstance(name, str) or not name.strip() or not (path is None or isinstance(path, str)):
        raise _wrong(value)
    scale = next((value[key] for key in _SCALES if value.get(key) is not None), 1.0)
    return (LoraChoice(name.strip(), _scale(scale), path),)


def _scale(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= _MAX_SCALE:
        raise InvalidRequestError(f"lora's scale is {value!r}; expected a number, such as 0.8", "lora")
    return number


def _wrong(value: Any) -> InvalidRequestError:
    expected = 'a name, {"name": ..., "scale": ...}, or a list of these'
    return InvalidRequestError(f"lora is {value!r}; expected {expected}", "lora")


@dataclass(frozen=True)
class ControlChoice:
    """One control by the name that it was loaded under, and the picture that it goes by.

    `scale` is its weight; `start` and `end` are shares of the steps, between which it acts (an IP-Adapter always does);
    `mode` is what the picture shows, by its number, for a ControlNet that was trained on several kinds (union).
    Raises `InvalidRequestError` for what makes no sense.
    """

    name: str
    image: Any
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidRequestError(f"a control is named {self.name!r}; expected a name", "controlnet")
        if self.image is None or (isinstance(self.image, str) and not self.image.strip()):
            raise InvalidRequestError(f"{self.name!r} has no image; expected the picture that it goes by", "controlnet")
        check_number("scale", self.scale, -_MAX_SCALE, high=_MAX_SCALE)
        check_number("start", self.start, 0, high=1)
        check_number("end", self.end, 0, high=1)
        if self.mode is not None and (not isinstance(self.mode, int) or isinstance(self.mode, bool) or self.mode < 0):
            raise InvalidRequestError(f"mode is {self.mode!r}; expected a number from 0 on", "controlnet")
        if self.start >= self.end:
            text = (
                f"{self.name!r} starts at {self.start} and ends at {self.end}; expected shares of the steps, in order"
            )
            raise InvalidRequestError(text, "controlnet")

    def plain(self, image: Any = None) -> dict[str, Any]:
        """As JSON can hold it: without its picture, or with what stands for it."""
        found = {"name": self.name, "scale": self.scale}
        found |= {} if (self.start, self.end) == (0.0, 1.0) else {"start": self.start, "end": self.end}
        found |= {} if self.mode is None else {"mode": self.mode}
        return found if image is None else {**found, "image": image}


def parse_controls(param: str, value: Any) -> tuple[ControlChoice, ...] | None:
    """`{"name", "image", "scale", "start", "end", "mode"}`, a list, JSON of these, or choices; None for nothing given.

    `param` is what requests call it: controlnet or ip_adapter. Raises `InvalidRequestError`.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidRequestError(f"{param} is {value[:80]!r}, which is no JSON: {error}", param) from error
    try:
        found = tuple(_control(param, one) for one in _listed(param, value))
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{param}: {error}" if error.param != param else str(error), param) from error
    return found or None


def with_images(
    choices: tuple[ControlChoice, ...] | None, load: Callable[[Any], Any]
) -> tuple[ControlChoice, ...] | None:
    """The same choices with what `load` makes of their pictures."""
    return choices and tuple(replace(one, image=load(one.image)) for one in choices)


def _listed(param: str, value: Any) -> Sequence[Any]:
    if isinstance(value, (Mapping, ControlChoice)):
        return [value]
    if isinstance(value, Sequence):
        return value
    raise _wrong_control(param, value)


def _control(param: str, value: Any) -> ControlChoice:
    if isinstance(value, ControlChoice):
        return value
    if not isinstance(value, Mapping):
        raise _wrong_control(param, value)
    named = {str(_SAME_OF_CONTROLS.get(key, key)): one for key, one in value.items() if one is not None}
    known: tuple[str, ...] = ("name", "image", "scale")
    known += () if param == "ip_adapter" else ("start", "end", "mode")
    unknown = [str(key) for key in named if key not in known]
    if unknown:
        raise InvalidRequestError(f"{param} has {unknown[0]!r}; expected {', '.join(known)}", param)
    if "name" not in named:
        raise InvalidRequestError(f"{param} has no name; expected one that --{param.replace('_', '-')} gave", param)
    given: dict[str, Any] = {"image": None, **named}
    return ControlChoice(**given)


def _wrong_control(param: str, value: Any) -> InvalidRequestError:
    expected = '{"name": ..., "image": ..., "scale": 1.0}, or a list of these'
    return InvalidRequestError(f"{param} is a {type(value).__name__}; expected {expected}", param)
