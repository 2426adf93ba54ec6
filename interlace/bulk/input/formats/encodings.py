"""In which bytes a text file is written: UTF-8 and UTF-16 are read, others are named with what to do."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_LOOK = 512  # bytes
# A byte above ASCII beside a letter, as in "caf\xe9": how Latin-1 (Windows-1252) writes what UTF-8 takes two bytes for.
_LATIN = re.compile(rb"[A-Za-z][\xc0-\xff]|[\xc0-\xff][A-Za-z]")


def encoding_of(path: Path) -> str:
    """`utf-16` (with or without a mark), else `utf-8-sig`. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_LOOK)
    if head[:2] in _BOMS:
        return _BOMS[head[:2]]
    if len(head) >= 4 and b"\0" in head:
        if head[1::2].count(0) > 0.8 * len(head[1::2]):
            return "utf-16-le"
        if head[::2].count(0) > 0.8 * len(head[::2]):
            return "utf-16-be"
    return "utf-8-sig"


def is_empty(path: Path) -> bool:
    """Whether there is nothing but white space in a file. Raises OSError."""
    with path.open("rb") as file:
        return not file.read(_LOOK).strip(b" \t\r\n\xef\xbb\xbf\xff\xfe\0") and not file.read(1)


def empty(path: Path) -> str:
    """What to say of an empty file."""
    return f"{path} is empty; expected rows with prompts"


def not_unicode(data: bytes | str) -> str:
    """What to say of bytes (or a text that they came into as lone surrogates) that are not UTF-8."""
    if isinstance(data, str):
        if not _came_from_bytes(data):
            return "not valid Unicode text (a lone surrogate is in it)"
        data = data.encode(errors="surrogateescape")
    if _LATIN.search(data):
        return "not UTF-8 text; it looks like Latin-1 (Windows-1252): save the file as UTF-8"
    return "not UTF-8 text"


def _came_from_bytes(text: str) -> bool:
    return all("\udc80" <= character <= "\udcff" for character in text if "\ud800" <= character <= "\udfff")


def numbered_lines(path: Path) -> Iterator[tuple[int, str | bytes]]:
    """Each line that isn't blank with its number, from 1; as bytes where it can't be read. Raises OSError."""
    encoding = encoding_of(path)
    if encoding != "utf-8-sig":
        with path.open(encoding=encoding, errors="replace") as text:
            yield from ((number, line.strip()) for number, line in enumerate(text, 1) if line.strip("\ufeff \t\r\n"))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                decoded = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield number, line
                continue
            if decoded:
                yield number, decoded


def is_text(value: str) -> bool:
    """False where bytes were not UTF-8 (they came in as lone surrogates)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
