"""Logs on stderr: text for people, or one JSON object a line, whoever wrote the line.

Libraries, C++ code and child processes write to stderr too. With JSON their lines pass through a pipe, in which each
that is no object becomes one. Knows nothing of requests.
"""

import atexit
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

ACCESS = "interlace.access"
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_lines: "JsonLines | None" = None


def log_to_stderr(format: LogFormat | None = None, level: LogLevel = "info") -> None:
    """Everything that is logged goes to stderr; `format` None means text on a terminal, JSON elsewhere."""
    if format is None:
        format = "text" if _is_terminal() else "json"
    if format == "text" and _lines is not None:
        _lines.close()
    handler = logging.StreamHandler(json_lines().stream if format == "json" else sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else logging.Formatter(_TEXT))
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    wanted = getattr(logging, level.upper())
    logging.getLogger("interlace").setLevel(wanted)
    logging.getLogger("uvicorn").setLevel(wanted if level == "debug" else max(wanted, logging.WARNING))


def wanted_format(arguments: Sequence[str], environ: Mapping[str, str]) -> LogFormat | None:
    """What a command line asks for, before its flags are read: errors in them are lines on stderr too."""
    value = environ.get("INTERLACE_LOG_FORMAT")
    for i, argument in enumerate(arguments):
        flag, equals, given = argument.partition("=")
        if flag.replace("_", "-") == "--log-format":
            value = given if equals else " ".join(arguments[i + 1 : i + 2])
    return "json" if value == "json" else "text" if value == "text" else None


def _is_terminal() -> bool:
    return os.isatty(_lines.real) if _lines is not None and _lines.real >= 0 else sys.stderr.isatty()


def json_lines() -> "JsonLines":
    """The one pipe of this process, opened at the first call."""
    global _lines
    if _lines is None or _lines.real < 0:
        _lines = JsonLines()
    return _lines


def as_object(line: str) -> str:
    """A line as a JSON object: as it is where it is one, else as the message of one."""
    if line.startswith("{"):
        try:
            if isinstance(json.loads(line), dict):
                return line
        except ValueError:
            pass
    return _dumped({"time": _now(), "level": "warning", "logger": "stderr", "message": line})


class JsonLines:
    """Takes the place of file descriptor 2. `stream` leads past it, for lines that are objects, to `real`, which
    is -1 once it is closed."""

    def __init__(self) -> None:
        sys.stderr.flush()
        self.real = os.dup(2)
        self.stream: TextIO = os.fdopen(os.dup(self.real), "w", buffering=1, encoding="utf-8", errors="replace")
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(writing)
        os.set_inheritable(2, True)
        self._thread = threading.Thread(target=self._copy, args=(reading,), name="stderr", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Gives file descriptor 2 back, once what was written is out."""
        if self.real < 0:
            return
        sys.stderr.flush()
        os.dup2(self.real, 2)
        self._thread.join(1.0)  # child processes may still hold the other end
        os.close(self.real)
        self.real = -1

    def _copy(self, reading: int) -> None:
        with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    self.stream.write(as_object(line.rstrip("\r\n")) + "\n")


class JsonFormatter(logging.Formatter):
    """One object a record; what a record carries as `fields` stands beside time, level and logger."""

    def format(self, record: logging.LogRecord) -> str:
        """Never more than one line: a traceback is a text in the object."""
        fields: Mapping[str, Any] | None = getattr(record, "fields", None)
        head = {"time": _now(record.created), "level": record.levelname.lower(), "logger": record.name}
        line = {**head, **(fields if fields is not None else {"message": record.getMessage()})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _dumped(line)


def _dumped(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, default=str)


def _now(seconds: float | None = None) -> str:
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
