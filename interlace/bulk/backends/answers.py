"""Reads what a service says beside its image: how long to wait, and why it did not make one."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_MAX_WORDS = 500


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


def words(text: object, secret: str | None) -> str:
    """A service's words on one line of moderate length, without the key, should they repeat it."""
    line = " ".join(str(text).split())
    if secret:
        line = line.replace(secret, "***")
    return line if len(line) <= _MAX_WORDS else line[: _MAX_WORDS - 1] + "…"


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None
