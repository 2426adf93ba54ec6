"""Where one strand waits for what another makes, in the same engine or in another one. Safe from any thread.

Knows nothing of what goes through.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from greenlet import getcurrent

from interlace.engine.pipeline.strand import Parked, Strand

T = TypeVar("T")


class ChannelClosedError(Exception):
    """Nothing more comes."""


class Channel(Generic[T]):
    """Items from one maker to one taker, in order. A strand that finds none is parked; a thread is blocked."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._closed = False
        self._error: BaseException | None = None
        self._lock = threading.Condition()
        self._wake: Callable[[], object] | None = None

    def put(self, item: T) -> None:
        self._change(lambda: self._items.append(item))

    def close(self, error: BaseException | None = None) -> None:
        """No more items; with an error, whoever takes gets it once the items are gone. The first close counts."""

        def end() -> None:
            if not self._closed:
                self._closed, self._error = True, error

        self._change(end)

    def take(self) -> T:
        """The next item. Raises `ChannelClosedError` at the end, or the error that it was closed with."""
        strand = getcurrent()
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                if self._closed:
                    raise self._error or ChannelClosedError("the channel is closed")
                if not isinstance(strand, Strand):
                    self._lock.wait()
                    continue
            strand.park(Parked(self._when_changed))

    def __len__(self) -> int:
        return len(self._items)

    def _when_changed(self, wake: Callable[[], object]) -> None:
        """Calls `wake` once, as soon as there is something to take or nothing will come."""
        with self._lock:
            if not self._items and not self._closed:
                self._wake = wake
                return
        wake()

    def _change(self, change: Callable[[], object]) -> None:
        with self._lock:
            change()
            wake, self._wake = self._wake, None
            self._lock.notify_all()
        if wake is not None:
            wake()
