"""Checks of single values, with errors that say what was got and what was expected."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from interlace.errors import InvalidRequestError

MAX_SEED = 2**63 - 1  # what torch's generators take and every table can hold
MAX_STEPS = 100_000  # schedulers make lists of them all before the first
SPEECH_FIELDS = frozenset(
    {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "max_tokens", "eos_token_id"}
)


def check_number(
    name: str, value: object, low: float, *, whole: bool = False, high: float = math.inf, also: str = ""
) -> None:
    """Raises `InvalidRequestError` unless `value` is a finite number (an int if `whole`) from `low` to `high`.

    `also` is what the error names beside numbers, where the caller takes more.
    """
    kind = "a whole number" if whole else "a number"
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not good or not isinstance(value, (int, float)) or not _is_finite(value) or not low <= value <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise InvalidRequestError(f"{name} is {value!r}; expected {kind} {bounds}{also and f', or {also}'}", name)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def make_plain(params: Any) -> None:
    """numpy's numbers among a dataclass's fields, as pandas and datasets hold them, become Python's own."""
    for one in fields(params):
        value = getattr(params, one.name)
        kind: type = type(value)
        if isinstance(value, numbers.Real) and kind not in (int, float, bool):
            plain = int(value) if isinstance(value, numbers.Integral) else float(value)
            object.__setattr__(params, one.name, plain)


def check_choice(name: str, value: object, known: Sequence[object]) -> None:
    """Raises `InvalidRequestError` unless `value` is one of `known`."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in known):
        raise InvalidRequestError(f"{name} is {value!r}; expected one of {', '.join(map(str, known))}", name)


def check_seed(seed: object, num_images: int = 1) -> None:
    """Raises `InvalidRequestError` unless `seed` and those of the images that follow it are 0 to `MAX_SEED`."""
    check_number("seed", seed, 0, whole=True, high=MAX_SEED)
    assert isinstance(seed, int)
    if seed + num_images - 1 > MAX_SEED:
        most = MAX_SEED - num_images + 1
        raise InvalidRequestError(
            f"seed is {seed} with {num_images} images, each of which adds one; expected at most {most}", "seed"
        )


def check_speech(modalities: object, voice: object, speech: object) -> None:
    """Raises `InvalidRequestError` for what says nothing about text and sound."""
    if modalities is not None:
        known = isinstance(modalities, (list, tuple)) and set(modalities) <= {"text", "audio"} and modalities
        if not known:
            raise InvalidRequestError(f"modalities is {modalities!r}; expected text, audio or both", "modalities")
    if voice is not None and not isinstance(voice, str):
        raise InvalidRequestError(f"voice is a {type(voice).__name__}; expected a name", "voice")
    if not isinstance(speech, Mapping) or set(speech) - SPEECH_FIELDS:
        text = f"speech is {speech!r}; expected a mapping with some of {', '.join(sorted(SPEECH_FIELDS))}"
        raise InvalidRequestError(text, "speech")
    for name, low in (("temperature", 1e-3), ("top_p", 1e-6), ("repetition_penalty", 1e-3)):
        if name in speech:
            check_number(f"speech.{name}", speech[name], low, high=100)
    for name in ("top_k", "max_tokens"):
        if name in speech:
            check_number(f"speech.{name}", speech[name], 1, whole=True, high=2**31)
