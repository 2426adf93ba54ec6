"""The known name that is nearest to an unknown one. Knows nothing of fields: names of endpoints and variables too."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_ALIKE = 0.6  # of 1; below it a suggestion would be a guess


def nearest(name: str, known: Iterable[str], meant: Mapping[str, str] | None = None) -> str | None:
    """The name of `known` that was probably meant: by `meant`, where other words are listed, else by spelling."""
    names = {_plain(one): one for one in known}
    plain = _plain(name)
    word = (meant or {}).get(plain)
    if word is not None and word in names.values():
        return word
    found = get_close_matches(plain, names, n=1, cutoff=_ALIKE)
    return names[found[0]] if found else None


def _plain(name: str) -> str:
    return name[:100].lower().replace("-", "_")
