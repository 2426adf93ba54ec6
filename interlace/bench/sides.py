"""Ways to compare, each in a process of its own, as its user would run it, asked in turn: A B A B. Imports no torch.

A way is opened by a function that can be pickled: it loads, warms up and returns what is called once a turn.
"""

import pickle
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, Self

from interlace.python.hushed import hush_imports

_CLOSING_S = 30.0

hush_imports()  # here, since a side's process imports this first, and then what its way needs

Turn = Callable[..., Any]
Opener = Callable[[], Turn]


class SideEndedError(RuntimeError):
    """A side's process ended by itself."""


class Side:
    """One way, opened in a process of its own; calling it runs one turn there and returns what that returned.

    Raises what the way raised, `SideEndedError` where its process ended, and `TimeoutError` at the `deadline` (of
    `monotonic`), if it has one: then its process is ended too.
    """

    def __init__(self, open_way: Opener, deadline: float | None = None) -> None:
        self._deadline = deadline
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, open_way))
        self._process.start()
        theirs.close()
        try:
            self._received()
        except BaseException:
            self._process.kill()
            raise

    def __call__(self, *args: Any) -> Any:
        self._pipe.send(args)
        return self._received()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._pipe.close()
        left = _CLOSING_S if self._deadline is None else max(self._deadline - monotonic(), 0)
        self._process.join(min(left, _CLOSING_S))
        if self._process.is_alive():
            self._process.kill()

    def _received(self) -> Any:
        if self._deadline is not None and not self._pipe.poll(max(self._deadline - monotonic(), 0)):
            self._process.kill()
            raise TimeoutError("a side took longer than it may")
        try:
            value, error = self._pipe.recv()
        except EOFError:
            self._process.join(30)
            raise SideEndedError(f"a side's process ended with exit code {self._process.exitcode}") from None
        if error is not None:
            raise error
        return value


class SideHere(Side):
    """The same in this process, for tests: nothing that it measures means anything."""

    def __init__(self, open_way: Opener, deadline: float | None = None) -> None:
        self._turn = open_way()

    def __call__(self, *args: Any) -> Any:
        return self._turn(*args)

    def __exit__(self, *error: Any) -> None:
        getattr(self._turn, "close", lambda: None)()


@contextmanager
def opened(ways: Mapping[str, Opener]) -> Iterator[dict[str, Side]]:
    """All ways, opened one after the other: while one is busy, the others sleep."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(SIDE(way)) for name, way in ways.items()}


def in_turn(sides: Mapping[str, Side], repeats: int, *args: Any) -> dict[str, list[Any]]:
    """What each side returned, turn by turn."""
    told: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            told[name].append(side(*args))
    return told


def paired_ratio(seconds: Sequence[float], than: Sequence[float]) -> float:
    """How many times quicker `than` was: the median over the turns of each turn's own ratio."""
    return round(statistics.median(a / b for a, b in zip(seconds, than, strict=True)), 3)


SIDE: type[Side] = Side  # tests put `SideHere` in its place


def _answer(pipe: Connection, open_way: Opener) -> None:
    """What a side's process does: opens its way, then a turn for each message, until nobody listens."""
    turn = _tried(pipe, open_way, tell=False)
    while turn is not None:
        try:
            args = pipe.recv()
        except EOFError:
            break
        _tried(pipe, partial(turn, *args), tell=True)
    getattr(turn, "close", lambda: None)()


def _tried(pipe: Connection, run: Callable[[], Any], *, tell: bool) -> Any:
    try:
        value = run()
    except Exception as error:
        pipe.send((None, _sendable(error)))
        return None
    pipe.send((value if tell else None, None))
    return value


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
