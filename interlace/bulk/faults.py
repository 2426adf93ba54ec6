"""Fault points: places where a test ends the process, as a power cut would. Off unless INTERLACE_FAULT says otherwise.

`INTERLACE_FAULT="renamed:3"` kills the process when it comes to the point `renamed` for the third time.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable

VARIABLE = "INTERLACE_FAULT"
_visits: Counter[str] = Counter()


def fault_point(name: str, last_act: Callable[[], None] | None = None) -> None:
    """Ends the process here where it was told to; `last_act` is what it still does, such as half a write."""
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if wanted != name:
        return
    _visits[name] += 1
    if _visits[name] == int(count or 1):
        if last_act is not None:
            last_act()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
