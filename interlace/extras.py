"""What people bring to a model: adapters, other components, configurations, samplers, controls. As they write it.

The names are those of the flags, of `Omni`'s options and of a deploy file's engine_args. Knows no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from interlace.checks import check_choice, check_number
from interlace.errors import InvalidRequestError

Many = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Immutable. What may be given several times is a tuple; a text, a list or a mapping of names does too.

    Raises `InvalidRequestError` for a value that makes no sense; whether files are there shows when they are loaded.
    """

    lora: Many = field(default=())
    """An adapter that requests may name, as NAME=PATH_OR_ID[:WEIGHT_FILE]; NAME alone for one that comes with the
    model. Repeatable."""
    lora_dir: str | None = None
    """A directory whose .safetensors files requests may name as adapters; each is loaded when it is first asked for."""
    max_loras: int = 8
    """Adapters loaded at once; past it the one that was used the longest ago leaves, and comes back when asked for."""
    lora_syntax: bool = False
    """Read <lora:NAME:WEIGHT> in prompts, as A1111 does."""
    config_from: str | None = None
    """For a model in one file: a directory or hub id of the same family, for configuration and what the file lacks."""
    component: Many = field(default=())
    """A part of the model from elsewhere, as NAME=FILE|DIR|ID: transformer=FILE.gguf, vae=DIR. Repeatable."""
    embedding: Many = field(default=())
    """A textual inversion, as TOKEN=FILE; prompts use the token. Repeatable."""
    scheduler: str | None = None
    """The sampler in the place of the model's own: a name of A1111 ("DPM++ 2M Karras") or a class of diffusers."""
    quantize: Many = field(default=())
    """Weights in fewer bits, as METHOD:KIND[,COMPONENT...]: torchao:int8wo, bitsandbytes:nf4,text_encoder_2,
    quanto:int8. By default of the denoiser. Repeatable."""
    controlnet: Many = field(default=())
    """A ControlNet or T2I-Adapter that requests may name, as NAME=DIR|ID|FILE. Repeatable."""
    ip_adapter: Many = field(default=())
    """An IP-Adapter that requests may name, as NAME=FILE, or of the hub NAME=OWNER/REPO/FOLDER/FILE; with the picture
    encoder in image_encoder beside it, or from --component image_encoder=DIR. Repeatable."""

    def __post_init__(self) -> None:
        for name in ("lora", "component", "embedding", "quantize", "controlnet", "ip_adapter"):
            object.__setattr__(self, name, _many(name, getattr(self, name)))
        for name in ("lora_dir", "config_from", "scheduler"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise InvalidRequestError(f"{name} is {value!r}; expected a text", name)
        check_number("max_loras", self.max_loras, 1, whole=True)
        check_choice("lora_syntax", self.lora_syntax, (True, False))

    def named(self, name: str) -> dict[str, str]:
        """What was given as NAME=SOURCE, by name. Raises `InvalidRequestError` for anything else."""
        found = {}
        for text in getattr(self, name):
            key, equals, source = text.partition("=")
            if not equals or not key.strip() or not source.strip():
                raise InvalidRequestError(f"{name} is {text!r}; expected NAME=SOURCE", name)
            found[key.strip()] = source.strip()
        return found

    def set(self) -> dict[str, object]:
        """What is not left to defaults, by name."""
        return {
            f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != getattr(NOTHING, f.name)
        }


NAMES = frozenset(f.name for f in fields(Extras))


def split_extras(options: Mapping[str, Any]) -> tuple[Extras, dict[str, Any]]:
    """Options as those that are extras, and the others."""
    own = {name: value for name, value in options.items() if name in NAMES}
    return Extras(**own), {name: value for name, value in options.items() if name not in NAMES}


def _many(name: str, value: Any) -> Many:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping):
        value = [f"{key}={source}" for key, source in value.items()]
    if not isinstance(value, Iterable) or not all(isinstance(one, str) and one.strip() for one in value):
        raise InvalidRequestError(f"{name} is {value!r}; expected texts such as NAME=SOURCE", name)
    return tuple(value)


NOTHING = Extras()
