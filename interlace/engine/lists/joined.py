"""Arguments of several requests as those of one call with lists, and its output by the request. Pure functions."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from interlace.engine.calls.tree import is_atom
from interlace.engine.ticket import TEXTS

_APART = frozenset({"return_dict"})  # what is given here asks for another kind of output
_ONE = frozenset({"num_images_per_prompt", "num_videos_per_prompt"})
STEPS = "num_inference_steps"
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}  # else 1e-4; relative to the largest magnitude


class CannotPartError(Exception):
    """An output in which the requests' own parts can't be told."""


def list_key(kwargs: Mapping[str, object]) -> Hashable | None:
    """What must be equal for requests to be one call with lists; None where a request must be a call of its own.

    Each needs a text and a generator; everything else must be plain values.
    """
    if not isinstance(kwargs.get("prompt"), str) or not isinstance(kwargs.get("generator"), torch.Generator):
        return None
    values: list[tuple[str, Hashable]] = []
    for name, value in kwargs.items():
        if name == "generator":
            continue
        plain = (str, value is None) if name in TEXTS and isinstance(value, str | None) else _plain(name, value)
        if plain is None:
            return None
        values.append((name, plain))
    return tuple(sorted(values, key=lambda pair: pair[0]))


def _plain(name: str, value: Any) -> Hashable | None:
    if name in _APART or (name in _ONE and value not in (None, 1)):
        return None
    if isinstance(value, (list, tuple)) and all(is_atom(item) for item in value):
        return type(value), tuple(value)
    return (type(value), value) if is_atom(value) else None


def joined(requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of one call for all, with generators that start where each request's own stands."""
    first = requests[0]
    given = [name for name, value in first.items() if name in TEXTS and isinstance(value, str)]
    texts = {name: [kwargs[name] for kwargs in requests] for name in given}
    return {**first, **texts, "generator": [kwargs["generator"].clone_state() for kwargs in requests]}


def parted(output: object, count: int) -> list[object]:
    """A pipeline's output by the request, as each would have got it. Raises `CannotPartError`."""
    if not dataclasses.is_dataclass(output) or isinstance(output, type):
        raise CannotPartError(f"a {type(output).__name__} is no output with fields")
    kind: Any = type(output)
    columns = {field.name: _by_request(getattr(output, field.name), count) for field in dataclasses.fields(output)}
    return [kind(**{name: column[i] for name, column in columns.items()}) for i in range(count)]


def _by_request(value: Any, count: int) -> Sequence[Any]:
    if value is None:
        return [None] * count
    if isinstance(value, (list, torch.Tensor, np.ndarray)) and len(value) == count:
        return [value[i : i + 1] if isinstance(value, list) else _own(value[i : i + 1]) for i in range(count)]
    raise CannotPartError(f"a field of kind {type(value).__name__} has no item for each of {count} requests")


def _own(part: Any) -> Any:
    """A copy, so that nobody's output keeps the others' in memory or is changed with them."""
    return part.clone() if isinstance(part, torch.Tensor) else part.copy()


def alike(one: object, other: object) -> bool:
    """Whether two outputs are equal up to rounding: 1e-4 of the largest magnitude in float32, one level in pictures."""
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        return all(alike(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, Image.Image) and isinstance(other, Image.Image):
        return one.mode == other.mode and alike(np.asarray(one), np.asarray(other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return alike(torch.from_numpy(one.copy()), torch.from_numpy(other.copy()))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and _close(one, other)
    return bool(one == other)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    difference = (one.double() - other.double()).abs()
    if not one.is_floating_point():
        return bool((difference <= (1 if one.dtype == torch.uint8 else 0)).all())
    scale = one.double().abs().max().clamp_min(1.0) if one.numel() else 1.0
    return bool((difference <= scale * _TOLERANCE.get(one.dtype, 1e-4)).all())
