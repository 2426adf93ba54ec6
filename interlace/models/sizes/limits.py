"""Sizes beside what a model's `interlace.json` says of them. Knows nothing of torch."""

from collections.abc import Mapping

from interlace.errors import InvalidRequestError


def check_limits(limits: Mapping[str, int], sizes: Mapping[str, object]) -> None:
    """Raises `InvalidRequestError` for a height or a width, in pixels, outside a model's `limits`."""
    low, high = limits.get("min_size", 1), limits.get("max_size", 2**31)
    multiple = limits.get("multiple_of", 1)
    for name in ("height", "width"):
        size = sizes.get(name)
        if not isinstance(size, int):
            continue
        if not low <= size <= high:
            raise InvalidRequestError(f"{name} is {size}; expected {low} to {high} pixels for this model", name)
        if size % multiple:
            below = size // multiple * multiple
            near = f"{max(below, low)} or {min(below + multiple, high)}"
            raise InvalidRequestError(f"{name} {size} is not a multiple of {multiple}; try {near}", name)
