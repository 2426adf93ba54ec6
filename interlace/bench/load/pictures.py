"""The pictures that an engine makes of a bench's requests."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from interlace.engine.engine import Engine

Images = list[np.ndarray[Any, Any]]  # [height, width, 3] in [0, 1]


def drawn(engine: Engine, requests: Sequence[dict[str, Any]]) -> Images:
    """All requests at once, their pictures in order. Raises what any of them ended with."""
    images: Images = []
    for output in engine.map(requests):
        if isinstance(output, BaseException):
            raise output
        images.extend(output.images)
    return images
