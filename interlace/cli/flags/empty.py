"""Flags that name a file, a folder or a model, with nothing in them: a variable of somebody's script, never set."""

import typing
from pathlib import Path
from typing import Any

from cyclopts import UNSET, App, ArgumentCollection

from interlace.errors import InvalidRequestError

_MODELS = frozenset({"model", "model_name", "models"})


def refuse_empty_names(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Called by cyclopts with a command's arguments, once all of them are there.

    Raises `InvalidRequestError` for an empty path, which would be the current folder, and an empty name of a model.
    """
    for argument in arguments:
        name = str(argument.name).lstrip("-")
        is_name = _is_path(argument.hint) or name.replace("-", "_").lower() in _MODELS
        for token in argument.tokens if is_name else ():
            if token.implicit_value is UNSET and not token.value.strip():
                said = token.keyword or "a name on the command line"
                raise InvalidRequestError(f"{said} is empty; give it a value or leave it out", name.replace("-", "_"))


def _is_path(hint: Any) -> bool:
    return hint is Path or any(_is_path(one) for one in typing.get_args(hint))
