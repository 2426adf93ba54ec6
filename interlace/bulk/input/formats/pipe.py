"""Standard input: one prompt a line, as in a .txt file. A pipe can be read once and rows are gone through several
times, so what comes is kept in a temporary file until the command ends; its worker processes read that file too."""

import atexit
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from interlace.bulk.input.formats.encodings import is_empty, numbered_lines
from interlace.bulk.input.formats.record import Record, Source, Wanted
from interlace.bulk.input.formats.text import read_text
from interlace.errors import InvalidRequestError

STANDARD_INPUT = "/dev/stdin"  # what a command line's `-` becomes
_NAMES = ("-", STANDARD_INPUT)
_VARIABLE = "INTERLACE_STANDARD_INPUT"  # the process that kept it, and where: for its workers
_SEPARATORS = re.compile(r"[,;\t|]")


def is_standard_input(given: str) -> bool:
    return given in _NAMES


def standard_input() -> Source:
    """The prompts. Raises `InvalidRequestError` where none come, or rows of another format; OSError."""
    path = _kept_by_parent() or _keep()
    if is_empty(path):
        raise InvalidRequestError("standard input is empty; expected one prompt a line", "prompts_file")
    kind = _other_format(path)
    if kind is not None:
        text = (
            f"standard input is {kind}, and is read as one prompt a line; name the file that has it, or save it as one"
        )
        raise InvalidRequestError(text, "prompts_file")

    def read(wanted: Wanted) -> Iterator[Record]:
        for record in read_text(path):
            yield replace(record, where=f"standard input:{record.where.rpartition(':')[2]}")

    return Source(name="standard input", read=read)


def _kept_by_parent() -> Path | None:
    process, _, path = os.environ.get(_VARIABLE, "").partition(":")
    return Path(path) if path and process != str(os.getpid()) and os.path.exists(path) else None  # noqa: PTH110


def _keep() -> Path:
    if sys.stdin is None:
        raise InvalidRequestError("there is no standard input; expected a file, a folder or a dataset", "prompts_file")
    if sys.stdin.isatty():
        sys.stderr.write("reading prompts from standard input, one a line; Ctrl-D ends them\n")
    handle, name = tempfile.mkstemp(prefix="interlace-", suffix=".txt")
    path = Path(name)
    atexit.register(path.unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    os.environ[_VARIABLE] = f"{os.getpid()}:{path}"
    return path


def _other_format(path: Path) -> str | None:
    """What else than prompts the first line begins, if it plainly does."""
    line = next((line for _, line in numbered_lines(path)), "")
    if isinstance(line, bytes):
        return None
    names = [name.strip(' "') for name in _SEPARATORS.split(line)]
    if len(names) > 1 and "prompt" in names:
        return "a table"
    try:
        return "JSON" if line in ("[", "{") or isinstance(json.loads(line), (dict, list)) else None
    except (ValueError, RecursionError):
        return None
