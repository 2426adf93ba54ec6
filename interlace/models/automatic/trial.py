"""Two ways to compute one thing, in turn: whether they give the same, and which takes less time."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from interlace.engine.accelerator import synchronize
from interlace.engine.calls.fuse import close

LONG_S = 0.1  # of one run: then it is tried once, and not several times
TOO_LONG_S = 1.0  # then not at all
_ROUNDS = 40
_ROUND_S = 0.002  # what is shorter runs several times a round


@dataclass(frozen=True)
class Finding:
    """Whether to switch something on, and why."""

    on: bool
    why: str


def seconds(run: Callable[[], object]) -> float:
    """Of one call, the device's work included."""
    start = perf_counter()
    run()
    synchronize()
    return perf_counter() - start


def compared(plain: Callable[[], Any], quick: Callable[[], Any]) -> Finding:
    """By the quickest of several runs of each, which a busy machine disturbs the least. Any gain is worth it."""
    if not close(quick(), plain()):
        return Finding(False, "gave other numbers")
    first = seconds(plain)
    if first > TOO_LONG_S:
        return Finding(False, f"not tried: it takes {first:.1f} s")
    times = max(1, int(_ROUND_S / max(first, 1e-6)))
    best = [float("inf")] * 2
    for _ in range(1 if first > LONG_S else _ROUNDS):
        for place, way in enumerate((plain, quick)):
            best[place] = min(best[place], seconds(lambda way=way: [way() for _ in range(times)]))  # type: ignore[misc]
    ratio = best[0] / best[1]
    return Finding(ratio > 1, f"{ratio:.2f} times as quick")
