"""The command line: gathers the commands, reads flags from files and the environment, turns errors into statuses."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env
from rich.console import Console

from interlace import __version__
from interlace.cli.answer import answer
from interlace.cli.bench import bench
from interlace.cli.config import config
from interlace.cli.edit import edit
from interlace.cli.flags.empty import refuse_empty_names
from interlace.cli.flags.file import FlagFile, flags_of_commands
from interlace.cli.flags.several import models_as_words
from interlace.cli.help.completion import completion
from interlace.cli.help.environment import misspelt
from interlace.cli.help.examples import EXAMPLES
from interlace.cli.help.migrants import in_our_words
from interlace.cli.help.names import OTHER_NAMES, other_environment, translate, with_standard_input
from interlace.cli.help.page import MATTER, formatters, split_all
from interlace.cli.help.suggest import explain
from interlace.cli.info import info
from interlace.cli.invocation import APP, ARGUMENTS
from interlace.cli.serve import serve
from interlace.cli.t2i import t2i
from interlace.cli.t2v import t2a, t2v
from interlace.errors import InterlaceError, InvalidRequestError, ModelLoadError
from interlace.python.deferred.finder import defer_imports
from interlace.python.hushed import hush_imports
from interlace.python.uncollected import import_uncollected
from interlace.serve.logs import log_to_stderr, wanted_format

OK, SOME_FAILED, UNUSABLE = 0, 1, 2  # exit statuses; 128 + n where signal n ended the run

_MORE = "`--help-all` shows every flag; docs/cli.md has them all."
FLAGS_HELP = (
    "Every flag may be written `--like-this` or `--like_this`, may stand in a YAML file (`--config FILE`; keys "
    "`like_this`, at the top or under the command's name), or in the environment (`INTERLACE_LIKE_THIS`). A flag wins "
    "over the environment, the environment over the file."
)
STATUS_HELP = "Exit status: 0 all done; 1 some rows failed, the others are written; 2 unusable input or flags."

app = App(
    name="interlace",
    help="Runs any diffusers pipeline for many requests at once; every request gets the output it would get alone.",
    help_epilogue=f"{FLAGS_HELP}\n\n```text\n{EXAMPLES['interlace']}\n```",
    version=__version__,
    help_format="markdown",
    error_console=Console(stderr=True),
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
)
for command in (t2i, t2v, t2a, answer, edit, serve, info, bench, config, completion):
    app.command(command)
for name in (one for one in app if not one.startswith("-")):
    app[name].default_parameter = Parameter(negative_iterable=())  # no --empty-lora beside --lora
for name, example in EXAMPLES.items():
    if name in app:
        more = f"{_MORE} {STATUS_HELP}\n\n" if name in MATTER else ""
        app[name].help_epilogue = f"{more}```text\n{example}\n```"
_FORMATTERS = formatters(app)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status; says on stderr, in a line or two, what was wrong with it."""
    try:
        ARGUMENTS.set(tuple(arguments))
        APP.set(app)
        tokens, file = FlagFile.split(arguments)
        tokens, shows_all = split_all(in_our_words(tokens))
        for formatter in _FORMATTERS.values():
            formatter.shows_all = shows_all
        sources = [Env("INTERLACE_", command=False, show=False), other_environment, *([file] if file else [])]
        app.config = [*sources, refuse_empty_names]
        return app(models_as_words(translate(app, with_standard_input(app, tokens)))) or OK
    except CycloptsError as error:
        return _complain(explain(error), UNUSABLE)
    except (InvalidRequestError, ModelLoadError) as error:
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
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.simplefilter("ignore", FutureWarning)
    # OpenMP's threads spin while they wait for each other, by default for long. On a machine whose cores were shared
    # with another program that made t2i 10 to 15 times slower than
    # with a short spin. Benches measure what a user of the libraries has, so there it stays as it is.
    if sys.argv[1:2] != ["bench"]:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import_uncollected()
    hush_imports()
    defer_imports()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    if sys.argv[1:2] == ["serve"]:
        log_to_stderr(wanted_format(sys.argv, os.environ))
    for line in misspelt(os.environ, {*flags_of_commands(app), *OTHER_NAMES, "size"}):
        logging.getLogger("interlace").warning("%s", line)
    sys.exit(run(sys.argv[1:]))
