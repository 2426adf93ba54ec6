"""Texts as files."""

from collections.abc import Mapping


class PlainText:
    """UTF-8. It has no place for how it was made."""

    extension = label = "txt"

    def encode(self, text: str, record: Mapping[str, object]) -> bytes:
        """The file's bytes."""
        return text.encode(errors="backslashreplace")
