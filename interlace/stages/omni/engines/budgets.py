"""How much memory each part may take on its device: what a part is given by name first, the rest in equal shares.

Pure sums; no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interlace.errors import InvalidRequestError
from interlace.units import show_bytes


@dataclass(frozen=True)
class PartNeeds:
    """What is known of a part's replica: the bytes of its weights, what it is given in all, and of that for keys and
    values; None: nobody has said."""

    part: str
    weights: int
    budget: int | None
    kv_cache: int | None


@dataclass(frozen=True)
class PartRoom:
    """How many bytes of keys and values a part's replica may hold, and how many its forwards may take; None: any."""

    kv_bytes: int | None
    forwards: int | None


def rooms_on(device: str, free: int | None, spared: int, needs: Sequence[PartNeeds]) -> list[PartRoom]:
    """One room for each of the replicas on one device, of which `free` bytes are left beside all weights (None: as many
    as are asked for). Those that nobody gives a budget share what is left of it but for `spared` bytes.

    Half of what a part has beside its weights is for keys and values, half for forwards. Raises `InvalidRequestError`
    where weights fill a budget, or budgets the device.
    """
    given = [None if one.budget is None else _beside_weights(one.part, one.weights, one.budget) for one in needs]
    taken = sum(one for one in given if one is not None)
    unnamed = given.count(None)
    share = None if free is None or not unnamed else (free - spared - taken) // unnamed
    if free is not None and (taken > free or (share is not None and share < 2)):
        named = ", ".join(f"{one.part} {show_bytes(one.budget)}" for one in needs if one.budget is not None)
        raise InvalidRequestError(
            f"{device} has {show_bytes(max(free, 0))} beside the weights of its {len(needs)} parts, of which "
            f"{show_bytes(taken)} are given to some ({named or 'none'}): lower a part's memory_budget or "
            "memory_utilization, or move a part to another device",
            "memory_budget",
        )
    return [_halved(one, share if left is None else left) for one, left in zip(needs, given, strict=True)]


def _beside_weights(part: str, weights: int, budget: int) -> int:
    if budget <= weights:
        raise InvalidRequestError(
            f"the {part}'s weights take {show_bytes(weights)}, its memory budget is {show_bytes(budget)}; raise it, or "
            "load a smaller dtype",
            "memory_budget",
        )
    return budget - weights


def _halved(one: PartNeeds, left: int | None) -> PartRoom:
    if left is None:
        return PartRoom(one.kv_cache, None)
    kv_bytes = left // 2 if one.kv_cache is None else min(one.kv_cache, left - 1)
    return PartRoom(kv_bytes, left - kv_bytes)
