"""Notes what is written to watched modules, before it changes: a request's own changes, or its owner's.

A write in a strand is noted by that strand's recorder; one in another thread is its owner's turn; one inside a forward
is the module's own business. Knows nothing of how writes are seen: that is `journal`'s.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch

from interlace.engine.pipeline.variants.state import Data, Place, changes, look, same

Roots = frozenset[int]  # ids of the components that hold a module
EVERYWHERE: Roots = frozenset()  # a place that may matter to any


class Change(NamedTuple):
    """A place that was written to, what was there before, and whose forwards it may matter to."""

    place: Place
    before: Any
    roots: Roots


class Turns(Protocol):
    """Gives an owner's thread its turn to write."""

    def turn(self) -> contextlib.AbstractContextManager["Recorder"]: ...


class Watch(NamedTuple):
    """A module that engines share: kept so that its id stays its own."""

    module: torch.nn.Module
    roots: Roots
    turns: Turns


watched: dict[int, Watch] = {}  # by the module's id
_now = threading.local()


class Recorder:
    """Notes how watched modules were before they were first written to. `first` is called before the very first.

    A `private` one is a request's: what it notes is that request's own, casts are made once for all (`casts`). Weights
    that are about to change in place are copied where somebody still needs the old ones (`keeps_weights`).
    """

    within_forward = False

    def __init__(
        self,
        first: Callable[[], object],
        *,
        private: bool = False,
        casts: dict[object, object] | None = None,
        keeps_weights: bool = True,
    ) -> None:
        self._first = first
        self.private, self.casts, self.keeps_weights = private, {} if casts is None else casts, keeps_weights
        self._seen: dict[int, Any] = {}
        self._noted: list[tuple[Any, Roots]] = []

    def touch(self, module: torch.nn.Module) -> None:
        """`module` is about to be written to."""
        key = id(module)
        if key in self._seen or (watch := watched.get(key)) is None:
            return
        self._begin()
        self._seen[key] = module
        self._noted.append((look(module), watch.roots))

    def contents(self, container: Any, roots: Roots = EVERYWHERE) -> None:
        """A dict or list is about to be written to."""
        if id(container) not in self._seen:
            self._begin()
            self._seen[id(container)] = container
            self._noted.append(([(container, container.copy(), False)], roots))

    def data(self, module: torch.nn.Module, *, copy: bool = False) -> None:
        """The tensors of a module's own parameters are about to be replaced, or, with `copy`, changed in place."""
        watch = watched.get(id(module))
        if watch is None:
            return
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            if id(parameter) not in self._seen:
                self._begin()
                self._seen[id(parameter)] = parameter
                self._noted.append(((Data(parameter), parameter.data), watch.roots))
            if copy and self.keeps_weights:
                parameter.data = parameter.data.clone()

    def changes(self) -> list[Change]:
        """What was really changed."""
        found: list[Change] = []
        for before, roots in self._noted:
            if isinstance(before, tuple):
                place, value = before
                if not same(place.read(), value):
                    found.append(Change(place, value, roots))
            else:
                found += [Change(place, value, roots) for place, value in changes(before)]
        return found

    def __bool__(self) -> bool:
        return bool(self._noted)

    def _begin(self) -> None:
        if not self._noted:
            self._first()


class Within(Recorder):
    """Within a forward: what modules keep for themselves is noted nowhere. `first` is called before every write."""

    within_forward = True

    def touch(self, module: torch.nn.Module) -> None:
        if id(module) in watched:
            self._first()

    def contents(self, container: Any, roots: Roots = EVERYWHERE) -> None:
        self._first()

    def data(self, module: torch.nn.Module, *, copy: bool = False) -> None:
        self.touch(module)


IGNORE = Within(lambda: None)
_num_written = 0
_num_written_lock = threading.Lock()


def num_written() -> int:
    """Grows with every write to a watched module that is not a request's own."""
    return _num_written


def note_written() -> None:
    """Somebody has written to a watched module, on the owner's side."""
    global _num_written
    with _num_written_lock:
        _num_written += 1


def current() -> Recorder | None:
    """Who notes this thread's writes; None for an owner's thread between its turns."""
    return getattr(_now, "recorder", None)


def set_current(recorder: Recorder | None) -> Recorder | None:
    """Lets `recorder` note this thread's writes; returns the one before."""
    before = getattr(_now, "recorder", None)
    _now.recorder = recorder
    return before


@contextlib.contextmanager
def recording(recorder: Recorder | None) -> Iterator[None]:
    """Within, `recorder` notes what this thread writes."""
    before = set_current(recorder)
    try:
        yield
    finally:
        _now.recorder = before


@contextlib.contextmanager
def writing(module: torch.nn.Module) -> Iterator[Recorder]:
    """Around a write to `module`: by a strand, by its owner in turn, or by somebody who is nobody's business."""
    recorder = current()
    if recorder is not None:
        yield recorder
    elif (watch := watched.get(id(module))) is not None:
        with watch.turns.turn() as own:
            yield own
    else:
        yield IGNORE
