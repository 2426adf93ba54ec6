"""Ctrl-C and SIGTERM while a run is under way."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_go_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """`handler` gets both signals until the end of the block. Does nothing outside the main thread, which alone may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
