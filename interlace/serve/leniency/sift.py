"""What was sent, sorted: fields to be honoured, warnings about those that are ignored, refusals of the rest.

Works on plain values, before pydantic sees them. Values of a form are texts, so they are compared as texts.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.serve.leniency.names import nearest
from interlace.serve.leniency.table import KNOWN, MEANT, NEEDED, NEUTRAL, RENAMED, Known

Values = dict[str, Any]
_WRAPPED = "extra_body"


class FieldError(InvalidRequestError):
    """A field that nobody sends on purpose, or one that can't be honoured; `code` tells which."""

    def __init__(self, message: str, param: str, code: str) -> None:
        super().__init__(message, param)
        self.code = code


def sift(
    values: Values, honoured: Iterable[str], *, strict: bool = False, known: Mapping[str, Known] = KNOWN
) -> tuple[Values, list[str]]:
    """The fields to be honoured and the warnings about those that are not.

    `honoured` names the endpoint's own fields, `known` those of others. With `strict` nothing is ignored: what would
    be a warning is refused. Raises `FieldError` for what is refused.
    """
    own = frozenset(honoured)
    kept: Values = {}
    warnings: list[str] = []
    for name, value in _renamed(_unwrapped(values), own).items():
        if name in own:
            if not _left_out(name, value):
                kept[name] = value
        elif name not in known:
            raise _unknown(name, own)
        elif not asks_nothing(value, known[name]):
            warnings.append(_ignored(known[name], value, strict))
    return kept, warnings


def asks_nothing(value: object, known: Known) -> bool:
    """Whether a field of others has a value that stands for leaving it out."""
    return _is_empty(value) or any(_equal(value, one) for one in known.neutral)


def _left_out(name: str, value: Any) -> bool:
    """The same for a field of ours."""
    if name in NEEDED:
        return value is None
    return _is_empty(value) or any(_equal(value, one) for one in NEUTRAL.get(name, ()))


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return value is None or (isinstance(value, (list, dict)) and not value)


def _equal(value: Any, neutral: object) -> bool:
    """Equal as JSON, or as the texts of a form."""
    if isinstance(value, str) and not isinstance(neutral, str):
        try:
            value = json.loads(value.lower())
        except (ValueError, RecursionError):
            return False
    if isinstance(value, bool) or isinstance(neutral, bool):
        return value is neutral
    if isinstance(value, str) and isinstance(neutral, str):
        return value.lower() == neutral.lower()
    return bool(value == neutral)


def _unwrapped(values: Values) -> Values:
    """Without the literal `extra_body` that some clients send for what OpenAI's puts at the top level."""
    if _WRAPPED not in values:
        return values
    outer = {name: value for name, value in values.items() if name != _WRAPPED}
    inner = values[_WRAPPED]
    if isinstance(inner, str) and inner.strip():
        try:
            inner = json.loads(inner)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{_WRAPPED} is no JSON object: {error}", _WRAPPED) from error
    if inner in (None, "", {}):
        return outer
    if not isinstance(inner, dict):
        got = type(inner).__name__
        raise InvalidRequestError(
            f"{_WRAPPED} is a {got}; expected an object whose fields stand for themselves", _WRAPPED
        )
    return _joined(outer, inner, _WRAPPED)


def _joined(outer: Values, inner: Values, where: str) -> Values:
    for name, value in inner.items():
        if outer.get(name) is not None and value is not None and outer[name] != value:
            text = f"{name} is given twice with different values, once in {where}; expected one of them"
            raise InvalidRequestError(text, name)
    return {**outer, **{name: value for name, value in inner.items() if value is not None or name not in outer}}


def _renamed(values: Values, own: frozenset[str]) -> Values:
    renamed = dict(values)
    for name in [name for name in values if name in RENAMED and name not in own and RENAMED[name] in own]:
        value = renamed.pop(name)
        if value in (None, "", []):
            continue
        renamed = _joined(renamed, {RENAMED[name]: value}, name)
    return renamed


def _ignored(known: Known, value: Any, strict: bool) -> str:
    """The warning. Raises `FieldError` where the field may not be ignored."""
    if known.draws or strict:
        text = f"{known.name} is {_short(value)}; {known.reason}"
        raise FieldError(text, known.name, "unsupported_field")
    return f"{known.name} is ignored: {known.reason}"


def _unknown(name: str, own: frozenset[str]) -> FieldError:
    offered = nearest(name, own, MEANT)
    hint = f"did you mean {offered}?" if offered else "leave it out"
    return FieldError(f"unknown field {name[:100]!r}; {hint} (fields: see /docs)", name[:100], "unknown_field")


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} with {len(value)} items"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 70 else text[:67] + "..."
