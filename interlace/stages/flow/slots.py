"""How many requests may be at a stage at once; others wait in line. Knows nothing of what a stage is."""

import threading
from collections import deque
from collections.abc import Callable, Hashable


class Slots:
    """Lets `limit` in, or all without one; calls back, never blocks. A request keeps its slot until it has one at the
    next stage, so that a slow stage holds back the one before it instead of being buried by it."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.inside: set[Hashable] = set()
        self._waiting: deque[tuple[Hashable, Callable[[], object]]] = deque()
        self._lock = threading.Lock()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def enter(self, who: Hashable, later: Callable[[], object]) -> bool:
        """True with a slot at once; else `later` is called with one, in whatever thread gave it back."""
        with self._lock:
            if self.limit is not None and len(self.inside) >= self.limit:
                self._waiting.append((who, later))
                return False
            self.inside.add(who)
            return True

    def leave(self, who: Hashable) -> None:
        """Gives the slot back. Harmless for who has none."""
        with self._lock:
            if who not in self.inside:
                return
            self.inside.discard(who)
            if not self._waiting:
                return
            name, go = self._waiting.popleft()
            self.inside.add(name)
        go()

    def give_up(self, who: Hashable) -> bool:
        """Out of the line; False when it wasn't waiting."""
        with self._lock:
            for item in self._waiting:
                if item[0] == who:
                    self._waiting.remove(item)
                    return True
        return False
