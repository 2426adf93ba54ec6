"""Reads what a service says beside its image: why it did not make one."""

_MAX_WORDS = 500


def words(text: object, secret: str | None) -> str:
    """A service's words on one line of moderate length, without the key, should they repeat it."""
    line = " ".join(str(text).split())
    if secret:
        line = line.replace(secret, "***")
    return line if len(line) <= _MAX_WORDS else line[: _MAX_WORDS - 1] + "…"
