"""Measured bytes of forwards by shape and rows, against a budget: how many rows fit, and what never will. No torch."""

import math
from collections.abc import Mapping
from typing import TypedDict

from interlace.units import show_bytes


class MemoryFacts(TypedDict):
    """The budget, what of it is taken, and measured bytes by shape and rows."""

    budget_bytes: int | None
    weight_bytes: int
    held_bytes_per_request: int
    bytes: Mapping[str, Mapping[str, int]]


class MemoryModel:
    """Learns from real forwards. `budget` is what they and paused requests may take beside `weights`; None: no limit.

    A shape that never ran is given to one call alone, whose forward is measured; wider ones follow once they are known
    to fit. So a forward is never wider than what was measured says.
    """

    def __init__(self, budget: int | None = None, weights: int = 0) -> None:
        self.budget, self.weights = budget, weights
        self._bytes: dict[str, dict[int, int]] = {}
        self._held = 0  # of one paused request, at most: latents, embeddings

    def wanted(self, shape: str, rows: int) -> bool:
        """Whether a forward of this should be measured."""
        return self.budget is not None and bool(shape) and rows not in self._bytes.get(shape, ())

    def observe(self, shape: str, rows: int, size: int) -> None:
        """A forward of `shape` with so many rows took `size` bytes at one time."""
        self._bytes.setdefault(shape, {})[rows] = size

    def hold(self, size: int) -> None:
        """A paused request keeps `size` bytes."""
        self._held = max(self._held, size)

    def weights_changed(self, num_bytes: int) -> int | None:
        """Weights of so many bytes came (below 0: went). The bytes that are left beside them; None: no limit."""
        self.weights += num_bytes
        if self.budget is not None:
            self.budget -= num_bytes
        return self.budget

    def needed(self, shape: str, rows: int) -> int | None:
        """Bytes of a forward: as measured, else in proportion to the next smaller row count, or the smallest known."""
        known = self._bytes.get(shape)
        if not known:
            return None
        nearest = max((n for n in known if n <= rows), default=min(known))
        return known[nearest] if nearest == rows else math.ceil(known[nearest] * rows / nearest)

    def fits(self, shape: str, rows: int, num_running: int = 0) -> bool:
        """Whether a forward of so many rows may run while so many requests are paused."""
        if self.budget is None or not shape:
            return True
        needed = self.needed(shape, rows)
        return needed is not None and needed + num_running * self._held <= self.budget

    def too_large(self, shape: str, rows: int) -> int | None:
        """The bytes that a call takes alone, if it was seen to take more than there is, even with fewer rows."""
        known = self._bytes.get(shape, {})
        sizes = [size for n, size in known.items() if n <= rows]
        return max(sizes) if sizes and self.budget is not None and max(sizes) > self.budget else None

    def room(self, num_running: int) -> int | None:
        """How many more requests may start, so that the largest call of one still fits beside them; None: any."""
        if self.budget is None or not self._held:
            return None
        alone = [min(known.values()) for known in self._bytes.values()]
        largest = max((size for size in alone if size <= self.budget), default=0)
        return max((self.budget - largest) // self._held, 1) - num_running

    def refusal(self, shape: str, size: int) -> str:
        """What to tell the owner of a request that is too large."""
        return (
            f"one request of this size takes {show_bytes(size)} in {shape.partition(' ')[0]} "
            f"({shape.partition(': ')[2]}); there are {show_bytes(self.budget or 0)} beside the weights "
            f"({show_bytes(self.weights)}); ask for a smaller picture, or raise memory_budget or memory_utilization"
        )

    def describe(self) -> MemoryFacts:
        """The budget, and measured bytes by shape and rows."""
        every = sorted((shape, dict(known)) for shape, known in dict(self._bytes).items())
        return {
            "budget_bytes": self.budget,
            "weight_bytes": self.weights,
            "held_bytes_per_request": self._held,
            "bytes": {shape: {str(n): size for n, size in sorted(known.items())} for shape, known in every},
        }
