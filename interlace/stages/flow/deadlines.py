"""Calls back when a time is up. One thread for all requests."""

import heapq
import itertools
import threading
from collections.abc import Callable
from time import monotonic

_SPARE = 64  # entries that may be out of date, beyond as many as are not


class Deadlines:
    """Starts its thread with the first deadline."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []  # when, and which call; with some that were forgotten
        self._calls: dict[int, Callable[[], object]] = {}
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        """Calls `call` in so many seconds; it must be quick and harmless when it comes too late.

        Returns what is to be called when nobody needs that any more: then nothing is kept of it.
        """
        with self._changed:
            number = next(self._order)
            self._calls[number] = call
            heapq.heappush(self._heap, (monotonic() + seconds, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="interlace-deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()
        return lambda: self._forget(number)

    def close(self) -> None:
        """What is left is never called."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _forget(self, number: int) -> None:
        with self._changed:
            self._calls.pop(number, None)
            if len(self._heap) > 2 * len(self._calls) + _SPARE:
                self._heap = [entry for entry in self._heap if entry[1] in self._calls]
                heapq.heapify(self._heap)

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
                elif (call := self._calls.pop(heapq.heappop(self._heap)[1], None)) is not None:
                    return call
            return None
