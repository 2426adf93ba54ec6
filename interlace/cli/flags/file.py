"""Flags from a YAML file (`--config`), as a source for cyclopts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from interlace.cli.help.names import OTHER_NAMES, flag_names, translate_keys
from interlace.errors import InvalidRequestError


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
        path = os.environ.get("INTERLACE_CONFIG") or None
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
        if path is not None and not path.strip():
            raise InvalidRequestError("--config is empty; give it a file or leave it out", "config")
        return left, cls(Path(path)) if path else None

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Called by cyclopts with the arguments of the command that was asked for."""
        root = app.app_stack.current_frame[0]
        known = flag_names(arguments)
        elsewhere = (flags_of_commands(root) | {*OTHER_NAMES, "size"}) - known
        values = translate_keys(self.values, known)
        values = {key: value for key, value in values.items() if key not in elsewhere and key not in root}
        section: Any = self.values
        for command in commands:
            section = section.get(command, {}) if isinstance(section, dict) else {}
        if commands and isinstance(section, dict):
            values |= translate_keys({str(key).replace("-", "_"): value for key, value in section.items()}, known)
        Dict(values, use_commands_as_keys=False, source=str(self.path))(app, commands, arguments)


def flags_of_commands(app: App) -> set[str]:
    """The flags of every command, so that one file can serve them all."""
    flags: set[str] = set()
    for name in app:
        command = app[name]
        if name.startswith("-"):
            continue
        if command.default_command is not None:
            flags |= flag_names(command.assemble_argument_collection())
        flags |= flags_of_commands(command)
    return flags
