"""When what failed is tried again: which answers may pass, and how long to wait. Nothing here waits."""

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_PASSING = frozenset({408, 409, 425, 429})  # and every 5xx
_FIRST_S, _LONGEST_S = 0.25, 60.0


def may_pass(status: int) -> bool:
    """Whether an HTTP status may be another one in a while."""
    return status in _PASSING or status >= 500


def pause_s(attempt: int, jitter: float | None = None, *, first_s: float = _FIRST_S) -> float:
    """The wait after failed attempt `attempt` (from 1): doubles each time, and between half and all of that.

    `jitter` from 0 to 1, by default at random: requests that failed together should not come back together.
    """
    jitter = random.random() if jitter is None else jitter
    return min(_LONGEST_S, first_s * 2 ** min(attempt - 1, 30)) * (0.5 + 0.5 * jitter)


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """`Retry-After` in seconds (RFC 9110: seconds or a date), or OpenAI's `retry-after-ms`; None without either."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _number(text)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now))
    except (TypeError, ValueError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None
