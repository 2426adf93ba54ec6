"""Which requests may have killed a process, and in whose company they are tried again. Pure; no torch.

Whoever was under way at a death is a suspect. Suspects run again on a replica that is kept for them, first in fours,
then alone: so the one that kills is found at its third death, and those that were only beside it are not.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

MAX_DEATHS = 3  # then it is that request's error
_COMPANY = {1: 4}  # suspects that run together, by how many deaths they have seen


class Suspect(Protocol):
    """A request as suspicion sees it."""

    order: int
    deaths: int
    begun: bool


S = TypeVar("S", bound=Suspect)


def blamed(victims: Sequence[S]) -> Sequence[S]:
    """Of those that a process had when it died, those that it may have died of: what had begun, else all."""
    return [one for one in victims if one.begun] or victims


def cohort(suspects: Iterable[S]) -> list[S]:
    """The suspects that run together next: of those with the most deaths the oldest."""
    ranked = sorted(suspects, key=lambda one: (-one.deaths, one.order))
    if not ranked:
        return []
    deaths = ranked[0].deaths
    return [one for one in ranked if one.deaths == deaths][: _COMPANY.get(deaths, 1)]
