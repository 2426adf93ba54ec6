"""Calls back when a time is up. One thread for all requests."""

import heapq
import itertools
import threading
from collections.abc import Callable
from time import monotonic


class Deadlines:
    """Starts its thread with the first deadline."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls `call` in so many seconds; it must be quick and harmless when it comes too late."""
        with self._changed:
            heapq.heappush(self._heap, (monotonic() + seconds, next(self._order), call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="interlace-deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """What is left is never called."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _main(self) -> None:
        while (call := self._next()) is not None:
            call()

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._closed:
                if not self._heap:
                    self._changed.wait()
                elif (left := self._heap[0][0] - monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    return heapq.heappop(self._heap)[2]
            return None
