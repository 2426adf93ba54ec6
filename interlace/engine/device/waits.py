"""Where the engine's thread waits for the device, and why. All else that it does only queues work there.

A wait for none of these reasons, in the engine's own code on the way of a step, fails `tests/rehearsal`.
"""

import threading
from types import TracebackType

WAITS: dict[str, str] = {
    "verification": "the first fusion of each kind is compared with running alone",
    "unproven": "an argument that was equal so far, and that no probe could prove, is looked at until it differs",
    "positions": "positions among the arguments are read once a request, at the first call that has them",
    "shared": "an argument that must be equal to share, and has no rows, is read once for as long as it lives",
    "outcome": "a request's last numbers are looked at for NaN when nothing else is left to run",
    "prompt cache": "a text's tokens are read once a request, to know a text that was encoded before",
    "conditioning": "caches of a request's own calls know a conditioning by content, read once while it lives",
    "step cache": "how far latents and outputs moved decides whether a call runs",
    "first block cache": "how far the first block moved decides which rows go through the others",
    "held guidance": "calls about the same latents are found by comparing them",
    "pictures": "an encoder's features are taken apart by how many patches each picture has",
    "requests' code": "what a callback may have changed is compared with what it was",
}
_now = threading.local()


class DeviceWait:
    """Within, this thread waits for the device knowingly: `with DeviceWait("verification")`, a key of `WAITS`."""

    __slots__ = ("_before", "reason")

    def __init__(self, reason: str) -> None:
        assert reason in WAITS
        self.reason = reason

    def __enter__(self) -> None:
        self._before = reason_now()
        _now.reason = self._before or self.reason

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _now.reason = self._before


def reason_now() -> str:
    """Why this thread may wait for the device; empty where it may not."""
    return getattr(_now, "reason", "")
