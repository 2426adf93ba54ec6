"""Who waits for a replica, and which replica they get. Owned by `ReplicaStage`, under its lock; sends nothing."""

from collections.abc import Sequence

from interlace.stages.replicas.errand import Errand, Place
from interlace.stages.replicas.routing import choose
from interlace.stages.replicas.suspicion import cohort


class Dispatch:
    """Requests in the order in which they came. One place is kept for suspects while there are any."""

    def __init__(self) -> None:
        self.waiting: list[Errand] = []
        self._kept: Place | None = None

    def add(self, errand: Errand) -> None:
        """It waits, where its age puts it."""
        self.waiting.append(errand)
        self.waiting.sort(key=lambda one: one.order)

    def remove(self, errand: Errand) -> bool:
        """Out of the line; False where it wasn't in it."""
        if errand not in self.waiting:
            return False
        self.waiting.remove(errand)
        return True

    def assign(self, places: Sequence[Place], now: float) -> list[tuple[Errand, Place]]:
        """Gives those that wait a place, as far as one is up, and returns them."""
        up = [place for place in places if place.is_up]
        given = self._assign_suspects(up, now)
        free = [place for place in up if place is not self._kept and place.has_room]
        for errand in [one for one in self.waiting if not one.deaths] if free else ():
            place = places[choose([place.load() for place in free], errand.work)]
            place.take(errand, now)
            given.append((errand, place))
            if not place.has_room:
                free.remove(place)
                if not free:
                    break
        self.waiting = [errand for errand in self.waiting if errand.place is None]
        return given

    def _assign_suspects(self, up: Sequence[Place], now: float) -> list[tuple[Errand, Place]]:
        suspects = [errand for errand in self.waiting if errand.deaths]
        if suspects and up and (self._kept is None or not self._kept.is_up):
            self._kept = min(up, key=lambda place: place.left)
        kept = self._kept
        if kept is None or not kept.is_up or kept.live:
            return []
        group = cohort(suspects)
        for errand in group:
            kept.take(errand, now)
        self._kept = kept if group else None
        return [(errand, kept) for errand in group]
