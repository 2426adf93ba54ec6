"""The cells of a row that say how it is to be sampled, as sampling parameters."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from interlace.bulk.input.columns import EXTRA_COLUMNS, NUMBER_COLUMNS, PLAIN_COLUMNS, WHOLE_COLUMNS
from interlace.bulk.input.formats.encodings import is_text, not_unicode
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams

_MAX_IMAGES = 10_000
_LENGTHS = ("seconds", "num_frames")


def sampling_of(cells: Mapping[str, Any], defaults: SamplingParams) -> SamplingParams:
    """The cells over `defaults`. Raises `InvalidRequestError`."""
    values: dict[str, Any] = {name: _to_number(name, value) for name, value in cells.items() if name in NUMBER_COLUMNS}
    values |= {name: cells[name] for name in PLAIN_COLUMNS if name in cells}
    extra = {name: values.pop(name) for name in sorted(EXTRA_COLUMNS & values.keys())}
    if extra:
        values["extra"] = {**defaults.extra, **extra}
    values = {**_unsaid_length(values), **values}
    sampling = replace(defaults, **values) if values else defaults
    if not is_text(sampling.negative_prompt or ""):
        raise InvalidRequestError(f"the negative_prompt is {not_unicode(sampling.negative_prompt or '')}")
    if sampling.num_images > _MAX_IMAGES:
        raise InvalidRequestError(f"num_images is {sampling.num_images}; expected at most {_MAX_IMAGES} a row")
    return sampling


def _unsaid_length(values: Mapping[str, Any]) -> dict[str, None]:
    """Of the two ways to say how long a film is, the one that a row with the other leaves out: no flag holds for it.

    Raises `InvalidRequestError` for a row with both.
    """
    given = [name for name in _LENGTHS if name in values]
    if len(given) > 1:
        got = " and ".join(f"{name} {values[name]}" for name in given)
        raise InvalidRequestError(f"the row has {got}, which both say how long it is; leave one of them out", "seconds")
    return dict.fromkeys(name for name in _LENGTHS if given and name not in given)


def _to_number(name: str, value: object) -> object:
    """Tables hold text, and some tools write 20 as 20.0. What isn't a number is left for `SamplingParams` to refuse."""
    if isinstance(value, str):
        try:
            value = float(value) if name not in WHOLE_COLUMNS or not value.strip().isdecimal() else int(value)
        except ValueError:
            return value
    if name in WHOLE_COLUMNS and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
