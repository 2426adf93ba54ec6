"""Flags that several commands share, generated from dataclasses, and flags from a YAML file (`--config`)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import yaml
from cyclopts import App, ArgumentCollection, Group, Parameter, Token
from cyclopts.config import Dict

from interlace.config import EngineConfig
from interlace.errors import InvalidRequestError

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
    enable_vae_slicing: Annotated[bool, Parameter(negative=())] = False
    """Decode images one at a time: less memory."""
    enable_vae_tiling: Annotated[bool, Parameter(negative=())] = False
    """Decode large images in tiles: less memory; seams are blended."""
    enable_cpu_offload: Annotated[bool, Parameter(negative=())] = False
    """Keep on the GPU only the module that runs; needs a GPU and accelerate."""
    optimize: str | None = None
    """Several by name: compile, vae_slicing, vae_tiling, channels_last, fuse_qkv, cpu_offload, tf32."""

    def optimizations(self) -> "Optimizations":
        """Raises `InvalidRequestError` for a name that is not known."""
        from interlace.models.optimize import Optimizations

        names = ("compile", "vae_slicing", "vae_tiling", "cpu_offload")
        wanted = [name for name in names if getattr(self, f"enable_{name}")]
        listed = [name.strip().replace("-", "_") for name in (self.optimize or "").split(",") if name.strip()]
        return Optimizations(attention_backend=self.attention_backend, names=(*wanted, *listed))


@Parameter(name="*", group=PictureGroup)
@dataclass(frozen=True, kw_only=True)
class PictureFlags:
    """Sampling parameters that hold for every row without its own."""

    height: int | None = None
    """Pixels."""
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
    num_images: int = 1
    """Images a row."""


class FlagFile:
    """A YAML file as a source of flags for a cyclopts `App`.

    Keys at the top hold for every command that has such a flag, keys under a command's name for that command alone:
    `{model_name: demo, t2i: {batch_size: 8}}`. Raises `InvalidRequestError` for a file that can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            words = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise InvalidRequestError(f"can't read the config file {path}: {words}", "config") from error
        if not isinstance(values, dict):
            got = type(values).__name__
            raise InvalidRequestError(f"{path} holds a {got}; expected keys with values, such as `seed: 7`", "config")
        self.values: dict[str, Any] = {str(key).replace("-", "_"): value for key, value in values.items()}

    @classmethod
    def split(cls, arguments: Sequence[str]) -> tuple[list[str], Self | None]:
        """Takes `--config FILE` (or INTERLACE_CONFIG) off a command line."""
        left: list[str] = []
        path = os.environ.get("INTERLACE_CONFIG")
        rest = iter(arguments)
        for argument in rest:
            if argument == "--":
                left += [argument, *rest]
            elif argument == "--config":
                path = next(rest, None)
                if path is None:
                    raise InvalidRequestError("--config needs a file", "config")
            elif argument.startswith("--config="):
                path = argument.removeprefix("--config=")
            else:
                left.append(argument)
        return left, cls(Path(path)) if path else None

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Called by cyclopts with the arguments of the command that was asked for."""
        root = app.app_stack.current_frame[0]
        elsewhere = _flags_of_commands(root) - _names(arguments)
        values = {key: value for key, value in self.values.items() if key not in elsewhere and key not in root}
        section: Any = self.values
        for command in commands:
            section = section.get(command, {}) if isinstance(section, dict) else {}
        if commands and isinstance(section, dict):
            values |= {str(key).replace("-", "_"): value for key, value in section.items()}
        Dict(values, use_commands_as_keys=False, source=str(self.path))(app, commands, arguments)


def _flags_of_commands(app: App) -> set[str]:
    """The flags of every command, so that one file can serve them all."""
    flags: set[str] = set()
    for name in app:
        command = app[name]
        if name.startswith("-"):
            continue
        if command.default_command is not None:
            flags |= _names(command.assemble_argument_collection())
        flags |= _flags_of_commands(command)
    return flags


def _names(arguments: ArgumentCollection) -> set[str]:
    return {name.lstrip("-").replace("-", "_") for argument in arguments for name in argument.names}
