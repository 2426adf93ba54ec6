"""Checks of single values, with errors that say what was got and what was expected."""

import math
from collections.abc import Sequence
from typing import Any

from interlace.errors import InvalidRequestError


def check_number(name: str, value: Any, low: float, *, whole: bool = False, high: float = math.inf) -> None:
    """Raises `InvalidRequestError` unless `value` is a finite number (an int if `whole`) from `low` to `high`."""
    kind = "a whole number" if whole else "a number"
    number_types = (int,) if whole else (int, float)
    good = isinstance(value, number_types) and not isinstance(value, bool) and _is_finite(value)
    if not good or not low <= value <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise InvalidRequestError(f"{name} is {value!r}; expected {kind} {bounds}", name)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    """Raises `InvalidRequestError` unless `value` is one of `known`."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in known):
        raise InvalidRequestError(f"{name} is {value!r}; expected one of {', '.join(map(str, known))}", name)
