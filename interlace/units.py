"""Bytes as people write them."""

import re

from interlace.errors import InvalidRequestError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def parse_bytes(name: str, value: int | str) -> int:
    """`20GiB`, `512 MB` or a number as bytes. Raises `InvalidRequestError` naming the setting `name`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
    unit = _UNITS.get(found[2]) if found is not None else None
    if found is None or unit is None or isinstance(value, bool) or not (number := int(float(found[1]) * unit)):
        raise InvalidRequestError(f"{name} is {value!r}; expected bytes above 0, such as 20GiB or 512MiB", name)
    return number


def show_bytes(size: float) -> str:
    """`3.1 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
