"""How every bench ends: the command that asks for the same again, and one JSON line. No torch."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

_LEFT_OUT = frozenset({"output", "plot", "api_key"})  # change no figure, or are nobody's business


def command_of(bench: str, flags: Mapping[str, object]) -> str:
    """The command line with every flag said, whether it was given, came from a file, or is a default."""
    words = ["interlace", "bench", bench]
    for name, value in flags.items():
        if value is None or value is False or name in _LEFT_OUT:
            continue
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, tuple | list):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)


def write_result(result: Mapping[str, object], output: Path | None = None) -> None:
    """One JSON line on stdout, and in `output` too."""
    line = json.dumps(result)
    if output is not None:
        output.write_text(line + "\n", encoding="utf-8")
    print(line)
