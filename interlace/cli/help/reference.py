"""docs/cli.md: every command with every flag, written from the flags themselves.

`python -m interlace.cli.help.reference docs/cli.md` writes it; a test fails when it is stale.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from cyclopts import App, Argument

from interlace.cli.help.examples import EXAMPLES
from interlace.cli.help.names import OTHER_NAMES
from interlace.cli.main import FLAGS_HELP, STATUS_HELP, app

_HEAD = """\
# Command line

`interlace COMMAND --help` shows the flags that matter, `--help-all` all of them. This page is written by
`python -m interlace.cli.help.reference docs/cli.md` from the flags themselves.
"""
_SIZE = "`--size WIDTHxHEIGHT` gives width and height at once."


def reference() -> str:
    """The page as Markdown."""
    parts = [_HEAD, _wrapped(FLAGS_HELP), _wrapped(_SIZE), _wrapped(STATUS_HELP)]
    for name in ("t2i", "t2v", "t2a", "answer", "edit", "serve", "info", "bench", "config", "completion"):
        parts += _command(app[name], name)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _command(command: App, name: str, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} interlace {name}"
    yield cleandoc(_without_parameters(command.help))
    if name in EXAMPLES:
        yield f"```bash\n{EXAMPLES[name]}\n```"
    if command.default_command is None:
        for inner in command:
            if not inner.startswith("-"):
                yield from _command(command[inner], f"{name} {inner}", level + 1)
        return
    groups: dict[str, list[Argument]] = {}
    for argument in command.assemble_argument_collection(parse_docstring=True):
        if argument.parameter.parse is not False and not argument.children and argument.show:
            groups.setdefault(_group(argument), []).append(argument)
    for title, arguments in groups.items():
        yield f"**{title}**"
        rows = [f"| {_names(one)} | {_help(one)} | {_default(one)} |" for one in arguments]
        yield "\n".join(["| flag | what it does | default |", "|---|---|---|", *rows])


def _group(argument: Argument) -> str:
    group = argument.parameter.group
    first = next(iter(group), "") if isinstance(group, (tuple, list)) else group
    return str(getattr(first, "name", first) or "Flags")


def _without_parameters(text: str) -> str:
    return re.split(r"\n\s*Parameters\n\s*-+\n", text)[0]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _names(argument: Argument) -> str:
    own = argument.name.lstrip("-").replace("-", "_")
    names = [name for name in argument.names if not name.startswith("--no-")]
    names += [f"-{name}" if len(name) == 1 else f"--{name}" for name, ours in OTHER_NAMES.items() if ours == own]
    shown = ", ".join(f"`{name}`" for name in dict.fromkeys(names))
    negative = [name for name in argument.names if name.startswith("--no-")]
    return shown + (f"; `{negative[0]}`" if negative else "")


def _help(argument: Argument) -> str:
    text = " ".join(str(argument.parameter.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
    choices = argument.get_choices() or ()  # one: a word beside numbers, which the text explains
    return text + (f" One of {', '.join(choices)}." if len(choices) > 1 else "")


def _default(argument: Argument) -> str:
    default = argument.field_info.default
    if default is argument.field_info.empty or default in (None, (), [], "") or default is False:
        return ""
    value = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
    return f"`{value}`" if value else ""


def main() -> None:
    """Writes the page to the file that is named, or to stdout."""
    text = reference()
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
