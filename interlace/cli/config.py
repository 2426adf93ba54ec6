"""`interlace config`: every setting of a command and where it comes from, as a YAML file that `--config` takes."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import yaml
from cyclopts import App, Argument, Parameter

from interlace.cli.invocation import APP
from interlace.errors import InvalidRequestError

_COMMANDS = ("t2i", "edit", "serve")


def config(
    commands: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    /,
    *,
    dump: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Print the settings of t2i, edit and serve (or of those named) and where each comes from.

    A file (`--config FILE`, INTERLACE_CONFIG) and the environment (INTERLACE_...) count as they would in the command.
    What is printed is such a file itself; keys that nothing has set are comments.

    Parameters
    ----------
    commands
        t2i, t2v, t2a, answer, edit, serve, info.
    dump
        Settings that are the defaults, too.
    """
    app = APP.get()
    for name in commands or _COMMANDS:
        if name.startswith("-") or name not in app or app[name].default_command is None:
            raise InvalidRequestError(
                f"there is no command {name!r}; expected t2i, t2v, t2a, answer, edit, serve or info", "commands"
            )
        lines = list(_settings(app, name, everything=dump))
        sys.stdout.write("\n".join([f"{name}:" if lines else f"# {name}: all defaults", *lines]) + "\n")


def _settings(app: App, name: str, *, everything: bool) -> Iterator[str]:
    command = app[name]
    arguments = command.assemble_argument_collection()
    for source in app.config:
        source(app, (name,), arguments)
    for argument in arguments:
        if argument.parameter.parse is False or _is_group(argument) or not argument.name.startswith("-"):
            continue
        key = argument.name.lstrip("-").replace("-", "_")
        if argument.tokens:
            values = [token.value if token.value else str(token.implicit_value) for token in argument.tokens]
            value: Any = values if len(values) > 1 else yaml.safe_load(values[0]) if values[0] else values[0]
            token = argument.tokens[0]
            yield f"  {key}: {_in_yaml(value)}  # {_source(token.source, token.keyword)}"
        elif everything:
            yield f"  # {key}: {_in_yaml(_default(argument))}  # default"


def _is_group(argument: Argument) -> bool:
    return bool(argument.children)


def _default(argument: Argument) -> Any:
    default = argument.field_info.default
    if default is argument.field_info.empty:
        return None
    return default() if callable(default) and not isinstance(default, type) else default


def _in_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    if not isinstance(plain, (str, int, float, bool, list, type(None))):
        plain = str(plain)
    return (
        yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**6)
        .strip()
        .removesuffix("...")
        .strip()
    )


def _source(source: str, keyword: str | None) -> str:
    return f"environment, {keyword}" if source == "env" else source
