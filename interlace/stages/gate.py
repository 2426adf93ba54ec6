"""How many requests may be at a stage at once; others wait in line. Knows nothing of what a stage is."""

import threading
from collections import deque
from collections.abc import Callable, Hashable


class Gate:
    """Lets `limit` in; calls back, never blocks. A request keeps its place until it is let in at the next stage, so
    that a slow stage holds back the one before it instead of being buried by it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside: set[Hashable] = set()
        self._waiting: deque[tuple[Hashable, Callable[[], object]]] = deque()
        self._lock = threading.Lock()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def enter(self, who: Hashable, go: Callable[[], object]) -> None:
        """Calls `go` as soon as there is room, in whatever thread made the room."""
        with self._lock:
            if len(self.inside) >= self.limit:
                self._waiting.append((who, go))
                return
            self.inside.add(who)
        go()

    def leave(self, who: Hashable) -> None:
        """Gives the place back. Harmless for who isn't inside."""
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
