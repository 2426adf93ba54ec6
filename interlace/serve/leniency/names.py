"""The known name that is nearest to an unknown one. Knows nothing of fields: names of endpoints and variables too."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_ALIKE = 0.6  # of 1; below it a suggestion would be a guess


def nearest(name: str, known: Iterable[str], meant: Mapping[str, str] | None = None) -> str | None:
    """The name of `known` that was probably meant: one of the other words in `meant`, or one that is spelt alike."""
    names = {_plain(one): one for one in known}
    words = {word: one for word, one in (meant or {}).items() if one in names.values()} | names
    plain = _plain(name)
    found = [plain] if plain in words else get_close_matches(plain, words, n=1, cutoff=_ALIKE)
    return words[found[0]] if found else None


def _plain(name: str) -> str:
    return name[:100].lower().replace("-", "_")
