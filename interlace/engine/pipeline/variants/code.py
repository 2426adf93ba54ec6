"""Whether code of strangers could remember anything: read off its bytecode, without running it."""

import dis
import functools
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from interlace.engine.pipeline.variants.state import MISSING

_LIBRARIES = ("diffusers", "transformers", "peft", "torch", "accelerate", "interlace", "numpy")
ATOMS = (int, float, complex, bool, str, bytes, type(None))
_WRITES = frozenset(
    {"STORE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR", "STORE_SLICE", "DELETE_ATTR", "DELETE_GLOBAL", "DELETE_SUBSCR"}
)
_GROWING = {"append", "appendleft", "add", "update", "extend", "insert", "setdefault", "setattr", "__setattr__"}
_LOGGING = frozenset({"append", "appendleft", "extend", "add"})  # they give nothing back
_LOADS = ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME")
_SILENT = ("CACHE", "PRECALL", "EXTENDED_ARG", "NOP", "RESUME", "PUSH_NULL")
_COUNT = ("LOAD_CONST", "BINARY_OP")  # then a store to the same variable
_COUNT_IN = ("COPY", "COPY", "BINARY_SUBSCR", "LOAD_CONST", "BINARY_OP", "SWAP", "SWAP", "STORE_SUBSCR")
_WRITING = _GROWING | {"pop", "popleft", "clear", "remove", "discard", "next"}


def is_foreign(thing: object) -> bool:
    """Whether somebody else than a library wrote a class or function, or the class of an object."""
    thing = thing.func if isinstance(thing, functools.partial) else thing
    name = getattr(thing, "__module__", None) or type(thing).__module__
    root = name.partition(".")[0]
    return root not in _LIBRARIES and (root not in sys.stdlib_module_names or root == "__main__")


def content_of(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return MISSING


@functools.cache
def names_in(code: types.CodeType) -> frozenset[str]:
    inner = (names_in(one) for one in code.co_consts if isinstance(one, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def may_write(thing: object, *, logs: bool = True) -> bool:
    """Whether a stranger's function, or any method of an object, could write to what outlives its call; with `logs`
    what is only added to, and never looked at, is no matter.

    Read off the code: true wherever that can't be told.
    """
    thing = thing.func if isinstance(thing, functools.partial) else thing
    function = getattr(thing, "__func__", thing)
    if isinstance(function, types.FunctionType):
        return _function_may_write(function, frozenset(), logs)
    if any(_function_may_write(one, frozenset(), logs) for one in _methods(type(thing))):
        return True
    return any(_is_code(value) for value in getattr(thing, "__dict__", {}).values())


def _methods(kind: type) -> Iterator[types.FunctionType]:
    for one in kind.__mro__:
        if is_foreign(one):
            functions = ((name, value) for name, value in vars(one).items() if isinstance(value, types.FunctionType))
            yield from (value for name, value in functions if name not in ("__init__", "__post_init__"))


def _is_code(value: Any, depth: int = 3) -> bool:
    """Whether a value may be called, or holds what may, and a stranger wrote it; or moves on whenever it is used."""
    if value is MISSING or isinstance(value, (*ATOMS, types.ModuleType, torch.Tensor, torch.nn.Module, type)):
        return False
    if isinstance(value, (torch.Generator, random.Random, np.random.Generator)) or hasattr(type(value), "__next__"):
        return True
    inner = list(vars(value).values()) if isinstance(value, types.SimpleNamespace) else value
    inner = list(inner.values()) if isinstance(inner, dict) else inner
    if isinstance(inner, (list, tuple, set)):
        return depth == 0 or any(_is_code(one, depth - 1) for one in inner)
    return is_foreign(value) if callable(value) else is_foreign(type(value))


def _function_may_write(function: types.FunctionType, known: frozenset[int], logs: bool) -> bool:
    if not is_foreign(function) or id(function.__code__) in known:
        return False
    if _code_may_write(function.__code__, logs):
        return True
    known |= {id(function.__code__)}
    names = names_in(function.__code__)
    found = [content_of(cell) for cell in function.__closure__ or ()]
    found += [function.__globals__[name] for name in names if name in function.__globals__]
    for value in found:
        inner = getattr(value, "__func__", value)
        if isinstance(inner, types.FunctionType):
            if _function_may_write(inner, known, logs):
                return True
        elif _is_code(value):
            return True
    return False


@functools.cache
def _code_may_write(code: types.CodeType, logs: bool) -> bool:
    steps, added = _steps(code), logs_of(code) if logs else frozenset()
    harmless = {at for i, step in enumerate(steps) if step.argval in added for at in _adding(steps, i)}
    for at, step in enumerate(steps):
        if at in harmless:
            continue
        name = str(step.argval)
        if step.opname in _WRITES or (step.opname == "STORE_DEREF" and name in code.co_freevars):
            return True
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL", "LOAD_NAME"):
            in_place = name.endswith("_") and not name.endswith("__")
            if name in _WRITING or in_place:
                return True
    return any(_code_may_write(one, logs) for one in code.co_consts if isinstance(one, types.CodeType))


def logs_of(code: types.CodeType) -> frozenset[str]:
    """Variables of enclosing functions and modules that code adds to and never looks at: a list that it appends to, a
    number that it counts up. Whatever they hold, it makes no difference to what the code does."""
    added, looked = _uses(code)
    return added - looked


@functools.cache
def _uses(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Variables from outside that code only adds to somewhere, and those that it looks at."""
    added: set[str] = set()
    looked: set[str] = set()
    steps = _steps(code)
    for at, step in enumerate(steps):
        if step.opname in _LOADS:
            (added if _adding(steps, at) else looked).add(str(step.argval))
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            inner = _uses(one)
            added |= inner[0]
            looked |= inner[1]
    return frozenset(added), frozenset(looked)


def _steps(code: types.CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname not in _SILENT]


def _adding(steps: list[dis.Instruction], at: int) -> range:
    """The steps by which a variable that is loaded at `at` is only added to; empty where it is looked at."""
    if steps[at].opname not in _LOADS:
        return range(0)
    after, name = steps[at + 1 : at + 10], steps[at].argval
    kinds = tuple(step.opname for step in after)
    if kinds[:1] in (("LOAD_METHOD",), ("LOAD_ATTR",)) and after[0].argval in _LOGGING:
        return range(at, at + 2)
    counts = kinds[:2] == _COUNT and kinds[2:3] in (("STORE_DEREF",), ("STORE_GLOBAL",)) and after[2].argval == name
    if counts and after[1].argrepr == "+=":
        return range(at, at + 4)
    if kinds[1:9] == _COUNT_IN and kinds[0] in ("LOAD_CONST", "LOAD_FAST") and after[5].argrepr == "+=":
        return range(at, at + 10)
    return range(0)
