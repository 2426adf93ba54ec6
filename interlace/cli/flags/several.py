"""Several models behind one server: their names, or a file that says of each how it is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from cyclopts import Parameter

from interlace.checks import check_number
from interlace.cli.flags.model import ModelFlags
from interlace.cli.flags.shared import EngineFlags, ExtraFlags, ModelGroup, SpeedFlags
from interlace.errors import InvalidRequestError

_NAME = "--model-name"
_PARTS = {"model": ModelFlags, "engine": EngineFlags, "extras": ExtraFlags, "speed": SpeedFlags}
F = TypeVar("F")  # the flags of `serve`, which hold those of `_PARTS`
_SHORT = {"model": "model_name", "dtype": "torch_dtype"}


@Parameter(name="*", group=ModelGroup)
@dataclass(frozen=True, kw_only=True)
class SeveralFlags:
    """Which models beside the first one a server offers, and how many may be loaded."""

    models_config: Path | None = None
    """A YAML file with `models:`, a list; each with `model`, and whatever flags of models, batching and speed are its
    own. In place of models on the command line."""
    max_loaded_models: int | None = None
    """Most models that are loaded at once; the one that was used the longest ago makes room. By default all. Weights of
    all together stay within --memory-budget, where that is given."""

    def __post_init__(self) -> None:
        if self.max_loaded_models is not None:
            check_number("max_loaded_models", self.max_loaded_models, 1, whole=True)

    def each(self, names: Sequence[str], flags: F) -> list[F]:
        """The flags of every model: those of all, and over them its own. Raises `InvalidRequestError`."""
        if self.models_config is None:
            return [_of(flags, {"model": name}) for name in names] or [flags]
        if names:
            raise InvalidRequestError(
                f"models are named ({', '.join(names)}) and --models-config is given; expected one", "models_config"
            )
        return [_of(flags, item) for item in _read(self.models_config)]


def models_as_words(tokens: Sequence[str]) -> list[str]:
    """A command line of `serve` with the models that its flags name as words, in order, after the words that it begins
    with. Flags have their own names already; any other command line stays as it is."""
    if tokens[:1] != ["serve"]:
        return list(tokens)
    models: list[str] = []
    left: list[str] = []
    rest = iter(tokens[1:])
    for token in rest:
        name, equals, value = token.partition("=")
        if token == "--":
            left += [token, *rest]
        elif name != _NAME:
            left.append(token)
        elif equals:
            models.append(value)
        elif (value := next(rest, "-")).startswith("-"):  # it has none, which is told where flags are read
            left += [token] if value == "-" else [token, value]
        else:
            models.append(value)
    first_flag = next((index for index, token in enumerate(left) if token.startswith("-")), len(left))
    return ["serve", *left[:first_flag], *models, *left[first_flag:]]


def _of(flags: F, own: Mapping[str, Any]) -> F:
    """`flags` with one model's own settings over them."""
    given = {_SHORT.get(name, name): value for name, value in own.items()}
    known = {f.name: part for part, kind in _PARTS.items() for f in fields(kind)} | {"edit_model": ""}
    for name in given:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "expected model and flags of models, batching, speed"
            raise InvalidRequestError(f"models: unknown key {name!r}; {hint}", "models_config")
    changed: dict[str, Any] = {"edit_model": given["edit_model"]} if "edit_model" in given else {}
    for part in _PARTS:
        mine = {name: value for name, value in given.items() if known[name] == part}
        if mine:
            changed[part] = replace(getattr(flags, part), **mine)
    return replace(flags, **changed)  # type: ignore[type-var]


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidRequestError(f"can't read {path}: {error}", "models_config") from error
    listed = values.get("models") if isinstance(values, Mapping) else None
    if not isinstance(listed, list) or not listed:
        raise InvalidRequestError(f"{path}: expected `models:` with a list, each with `model`", "models_config")
    items = [{"model": item} if isinstance(item, str) else item for item in listed]
    for item in items:
        if not isinstance(item, Mapping) or not (item.get("model") or item.get("model_name")):
            raise InvalidRequestError(f"{path}: one of models is {item!r}; expected keys with `model`", "models_config")
    return items
