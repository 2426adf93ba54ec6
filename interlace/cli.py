"""The command line: gathers the commands, reads flags from files and the environment, turns errors into statuses."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.config import Env
from rich.console import Console

from interlace import __version__
from interlace.commands.bench import bench
from interlace.commands.edit import edit
from interlace.commands.generate import t2i
from interlace.commands.info import info
from interlace.commands.invocation import ARGUMENTS
from interlace.commands.serve import serve
from interlace.errors import InterlaceError, InvalidRequestError, ModelLoadError
from interlace.flags import FlagFile

OK, SOME_FAILED, UNUSABLE = 0, 1, 2  # exit statuses; 128 + n where signal n ended the run

_FLAGS_HELP = """
Every flag may be written `--like-this` or `--like_this`, may stand in a YAML file (`--config FILE`; keys `like_this`,
at the top or under the command's name), or in the environment (`INTERLACE_LIKE_THIS`). A flag wins over the
environment, the environment over the file.
"""
_STATUS_HELP = "Exit status: 0 all done; 1 some rows failed, the others are written; 2 unusable input or flags.\n"

app = App(
    name="interlace",
    help="Runs any diffusers pipeline for many requests at once; every request gets the output it would get alone.",
    help_epilogue="```text\ninterlace t2i --prompt 'a red circle' --output-dir out\n```\n" + _FLAGS_HELP,
    version=__version__,
    help_format="markdown",
    error_console=Console(stderr=True),
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
)
app.command(t2i, help_epilogue=_STATUS_HELP + "\n" + _FLAGS_HELP)
app.command(edit, help_epilogue=_STATUS_HELP + "\n" + _FLAGS_HELP)
app.command(info)
app.command(bench)
app.command(serve)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status; says on stderr, in a line or two, what was wrong with it."""
    try:
        ARGUMENTS.set(tuple(arguments))
        tokens, file = FlagFile.split(arguments)
        app.config = [Env("INTERLACE_", command=False, show=False), *([file] if file else [])]
        return app(tokens) or OK
    except (CycloptsError, InvalidRequestError, ModelLoadError) as error:
        return _complain(str(error), UNUSABLE)
    except InterlaceError as error:
        return _complain(str(error), SOME_FAILED)
    except KeyboardInterrupt:
        return _complain("stopped; the same command goes on from here", 130)
    except Exception as error:
        if "INTERLACE_TRACEBACK" in os.environ:
            raise
        words = f"unexpected {type(error).__name__}: {error}"
        return _complain(f"{words}\n(INTERLACE_TRACEBACK=1 shows where)", SOME_FAILED)


def _complain(text: str, status: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return status


def main() -> None:
    """The `interlace` command."""
    # What the libraries below say of their own affairs is not for users of this command; both can be turned up again.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore", FutureWarning)
    # OpenMP's threads spin while they wait for each other, by default for long. On a machine whose cores were shared
    # with another program that made t2i 10 to 15 times slower than with a short spin.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    sys.exit(run(sys.argv[1:]))
