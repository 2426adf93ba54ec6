"""Whether the controls that a request names are there. Loads none."""

from collections.abc import Sequence

from interlace.adapters import ControlChoice
from interlace.errors import InvalidRequestError, UnknownAdapterError


def check_names(param: str, choices: Sequence[ControlChoice] | None, known: Sequence[str]) -> None:
    """`param` is what requests call them: controlnet or ip_adapter.

    Raises `UnknownAdapterError`, with the names that are known, and `InvalidRequestError` for one that is named twice.
    """
    named = [(one.name, one.mode) for one in choices or ()]
    for name, mode in named:
        if name not in known:
            flag = f"start with --{param.replace('_', '-')} NAME=..."
            raise UnknownAdapterError(
                f"unknown {param} {name!r}; known are {', '.join(known) or f'none: {flag}'}", param
            )
        if named.count((name, mode)) > 1:
            how = "name each once" if mode is None else f"name each mode once, as {mode} here"
            raise InvalidRequestError(f"{param} names {name!r} twice; {how}", param)
        if mode is None and [other for other, _ in named].count(name) > 1:
            raise InvalidRequestError(f"{param} names {name!r} twice; name each once, or each with its mode", param)
