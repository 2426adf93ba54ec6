"""What must be equal for two calls of a denoiser to share, where one of them may have something from a ControlNet."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from interlace.engine.calls.rules import CONTROLS


def equal_parts(
    module: Any, skeleton: Hashable, named: Mapping[str, Any], keys: Sequence[Hashable], bounds: Sequence[int]
) -> tuple[tuple[Hashable, ...], Hashable]:
    """The key of a call's arguments but for what a ControlNet adds, and of that alone: None where it adds nothing.

    `keys` are those of all leaves, and `bounds` say where each argument's begin and end. Where ControlNets may add
    something, what is left to a default of None, and the order of the arguments, makes no difference.
    """
    controls = CONTROLS.get(type(module).__name__)
    if controls is None:
        return (skeleton, tuple(keys)), None
    defaults = defaults_of(type(module).forward)
    own: list[tuple[str, Hashable]] = []
    added: list[tuple[str, Hashable]] = []
    for (name, value), (start, end) in zip(named.items(), pairwise(bounds), strict=True):
        if (value is None and defaults.get(name, value) is None) or tuple(keys[start:end]) == (None,):
            continue  # a mask that is there, or is not, among the latter
        (added if name in controls else own).append((name, (_form(value), *keys[start:end])))
    given = any(not isinstance(named[name], bool) for name, _ in added)
    return tuple(sorted(own, key=_name)), tuple(sorted(added, key=_name)) if given else None


@cache
def defaults_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The defaults of a method's arguments, by name."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


def _form(value: Any) -> Hashable:
    """How an argument is put together: a list of three is no list of four."""
    if isinstance(value, Mapping):
        return tuple((key, _form(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(_form(item) for item in value))
    return None


def _name(pair: tuple[str, Hashable]) -> str:
    return pair[0]
