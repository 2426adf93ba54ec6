"""Rows without ids by what they say: a row moved to another line of its file is still the same picture.

Rows that are in the folder's manifest keep the names that they have there; others are named after their prompts.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from interlace.bulk.input.rows import Row
from interlace.bulk.output.keys import ModelId, request_key
from interlace.bulk.output.manifest import read_manifest

_NOT_IN_NAMES = re.compile(r"[^\w]+")
_MAX_WORDS = 40  # characters of a prompt in a name


class _There(NamedTuple):
    """An image that is there: its row's id and its request key."""

    row_id: str
    key: str


def by_content(folder: Path, model: ModelId, base_seed: int) -> Callable[[], Callable[[Row], str]]:
    """What `Rows.namer` wants. The manifest is read once, now: names stay as they are while a run adds to it."""
    there: dict[str, list[_There]] = defaultdict(list)
    for record in read_manifest(folder):
        if record.get("index", 0) == 0:
            content = _content(str(record.get("prompt")), record.get("input_images") or [])
            there[content].append(_There(str(record.get("id")), str(record.get("request_key"))))
    return lambda: _Namer(there, model, base_seed).name


class _Namer:
    """Names the rows of one reading, in order; equal rows get names of their own."""

    def __init__(self, there: dict[str, list[_There]], model: ModelId, base_seed: int) -> None:
        self._there, self._model, self._base_seed = there, model, base_seed
        self._taken: dict[str, set[str]] = defaultdict(set)

    def name(self, row: Row) -> str:
        content = _content(row.prompt, [source.name for source in row.images])
        taken = self._taken[content]
        free = [one for one in self._there.get(content, ()) if one.row_id not in taken]
        same = (one.row_id for one in free if one.key == self._key(row, one.row_id))
        name = next(same, free[0].row_id if free else None) or _new_name(row.prompt, content, taken)
        taken.add(name)
        return name

    def _key(self, row: Row, row_id: str) -> str:
        return request_key(next(replace(row, id=row_id).jobs(self._base_seed)), self._model)


def _content(prompt: str, images: Sequence[str]) -> str:
    return hashlib.sha256("\0".join([prompt, *images]).encode(errors="surrogatepass")).hexdigest()[:8]


def _new_name(prompt: str, content: str, taken: set[str]) -> str:
    words = _NOT_IN_NAMES.sub("-", prompt.lower()).strip("-_")[:_MAX_WORDS].rstrip("-_")
    name = f"{words}-{content}" if words else content
    number = 2
    while name in taken:
        name, number = f"{words}-{content}-{number}", number + 1
    return name
