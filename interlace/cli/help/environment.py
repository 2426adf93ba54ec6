"""Names of environment variables that were meant for Interlace and that nothing reads.

A misspelt INTERLACE_ variable would be ignored in silence. Knows nothing of what the variables do.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

PREFIX = "INTERLACE_"

# Read by something else than a flag: see docs/environment in README and the modules that read them.
_OTHERS = (
    "CACHE_DIR",
    "CHROMIUM",
    "CLIENTS_DIR",
    "CONFIG",
    "FAULT",
    "FUZZ_N",
    "IS_WORKER",
    "SOAK_S",
    "STANDARD_INPUT",
    "TRACEBACK",
)
_OTHERS_UNDER = ("TEST_",)


def misspelt(environ: Mapping[str, str], flags: Iterable[str]) -> list[str]:
    """A line for each INTERLACE_ variable that is no flag's (`flags` as `max_num_seqs`) and nobody else's."""
    known = {*(flag.upper() for flag in flags), *_OTHERS}
    lines = []
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        name = variable.removeprefix(PREFIX)
        if name in known or name.startswith(_OTHERS_UNDER):
            continue
        near = get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "interlace COMMAND --help lists the flags"
        lines.append(f"the environment variable {variable} is not known and changes nothing; {hint}")
    return lines
