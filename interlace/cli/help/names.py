"""The names that people type, beside those that the flags have: `--steps`, `--size 512x512`, `-o`.

One table for the command line, the environment and configuration files. Knows no command: a name counts wherever its
flag is one of the command's.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from interlace.bulk.input.formats.pipe import STANDARD_INPUT
from interlace.errors import InvalidRequestError

OTHER_NAMES = {
    "model": "model_name",
    "m": "model_name",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "negative": "negative_prompt",
    "n": "num_images",
    "out": "output_dir",
    "o": "output_dir",
    "dtype": "torch_dtype",
}
_INPUTS = ("prompts_file", "input", "prompt", "image")  # flags that a lone `-` may follow
_SIZE = re.compile(r"(\d+)\s*[xX×*,]\s*(\d+)|(\d+)")


def names_of(app: App, tokens: Sequence[str]) -> set[str]:
    """The flags of the command that the tokens begin with, as `like_this`; none where it has no flags of its own."""
    for token in tokens:
        if token.startswith("-") or token not in app:
            break
        app = app[token]
    return flag_names(app.assemble_argument_collection()) if app.default_command is not None else set()


def flag_names(arguments: ArgumentCollection) -> set[str]:
    """Every name of a command's flags, as `like_this`."""
    return {name.lstrip("-").replace("-", "_") for argument in arguments for name in argument.names}


def translate(app: App, tokens: Sequence[str]) -> list[str]:
    """The tokens with the flags' own names. Raises `InvalidRequestError` for a `--size` that is none."""
    known = names_of(app, tokens)
    found: list[str] = []
    rest = iter(tokens)
    for token in rest:
        if token == "--":
            return [*found, token, *rest]
        name, equals, value = token.partition("=")
        plain = name.lstrip("-").replace("-", "_") if name.startswith("-") else ""
        if plain == "size" and _means_both_sides(known):
            value = value if equals else next(rest, "")
            found += [f"--{side}={pixels}" for side, pixels in _sides(value).items()]
        elif plain in OTHER_NAMES and plain not in known and OTHER_NAMES[plain] in known:
            found.append(f"--{OTHER_NAMES[plain].replace('_', '-')}{equals}{value}")
        else:
            found.append(token)
    return found


def with_standard_input(app: App, tokens: Sequence[str]) -> list[str]:
    """The tokens with `/dev/stdin` in the place of a lone `-`, which would be read as the beginning of a flag."""
    end = list(tokens).index("--") if "--" in tokens else len(tokens)
    if "-" not in tokens[:end]:
        return list(tokens)
    return [
        STANDARD_INPUT if token == "-" and index < end and _may_stand(app, tokens, index) else token
        for index, token in enumerate(tokens)
    ]


def _may_stand(app: App, tokens: Sequence[str], index: int) -> bool:
    """Not as the value of a flag that is no input, such as --output-dir."""
    before = tokens[index - 1] if index else ""
    name = before.lstrip("-").replace("-", "_")
    if not before.startswith("-") or "=" in before or name in _INPUTS:
        return True
    command = next((app[token] for token in tokens if not token.startswith("-") and token in app), app)
    arguments = command.assemble_argument_collection() if command.default_command is not None else ()
    return any(before in argument.names and argument.token_count()[0] == 0 for argument in arguments)


def translate_keys(values: Mapping[str, object], known: Collection[str]) -> dict[str, object]:
    """The same for keys `like_this`. What has the flag's own name wins."""
    found = dict(values)
    for name, own in OTHER_NAMES.items():
        if name in found and name not in known and own in known:
            found.setdefault(own, found.pop(name))
    if "size" in found and _means_both_sides(known):
        for side, pixels in _sides(str(found.pop("size"))).items():
            found.setdefault(side, pixels)
    return found


def other_environment(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """`INTERLACE_STEPS` and the like, as a source of flags for cyclopts; after the flags' own variables."""
    known = flag_names(arguments)
    for variable, name in _variables():
        values = translate_keys({name: os.environ[variable]}, known)
        if name not in values:
            Dict(values, use_commands_as_keys=False, source=variable)(app, commands, arguments)


def _variables() -> Iterator[tuple[str, str]]:
    for name in (*OTHER_NAMES, "size"):
        variable = f"INTERLACE_{name.upper()}"
        if len(name) > 1 and variable in os.environ:
            yield variable, name


def _means_both_sides(known: Collection[str]) -> bool:
    return "size" not in known and {"height", "width"} <= set(known)


def _sides(text: str) -> dict[str, int]:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequestError(f"--size is {text!r}; expected WIDTHxHEIGHT in pixels, such as 512x512", "size")
    width, height = (match[3], match[3]) if match[3] else (match[1], match[2])
    return {"width": int(width), "height": int(height)}
