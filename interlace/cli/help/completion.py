"""`interlace completion`: what a shell needs to complete commands and flags."""

import os
import sys
from pathlib import Path
from typing import Literal

from interlace.cli.invocation import APP

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Shell | None = None, /) -> None:
    """Print the script that completes commands and flags in a shell.

    Parameters
    ----------
    shell
        bash, zsh or fish; by default the one that $SHELL names.
    """
    script = APP.get().generate_completion(prog_name="interlace", shell=shell or _own_shell())
    sys.stdout.write(script.rstrip() + "\n")


def _own_shell() -> Shell:
    name = Path(os.environ.get("SHELL", "")).name
    found: dict[str, Shell] = {"bash": "bash", "zsh": "zsh", "fish": "fish"}
    return found.get(name, "bash")
