"""The owner's pipeline object while engines are open: its changes wait for their turn, and requests see their own.

A callback may close over the pipeline that its user has; within a request that name stands for the request's view.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from diffusers import DiffusionPipeline
from greenlet import getcurrent

from interlace.engine.pipeline.strand import Strand
from interlace.engine.pipeline.variants.commons import Commons

_CHANGES = ("load_", "unload_", "set_", "fuse_", "unfuse_", "enable_", "disable_", "delete_", "remove_", "register_")
_shadowed: dict[int, list[Commons]] = {}  # by the pipeline's id, for each engine that is open over it
Views = Mapping[int, DiffusionPipeline]  # what one request has in the place of pipelines, by their ids
_OURS = "_interlace_stock"  # on our classes: the class that they stand for


def stock_class(pipeline: object) -> type[Any]:
    """The pipeline's own class, whether an engine is open over it or not."""
    kind = type(pipeline)
    return vars(kind).get(_OURS, kind)


def shadow(pipeline: DiffusionPipeline, commons: Commons) -> None:
    """From now on `pipeline` knows that an engine is open."""
    _shadowed.setdefault(id(pipeline), []).append(commons)
    if _OURS not in vars(type(pipeline)):
        object.__setattr__(pipeline, "__class__", _class_for(type(pipeline)))


def unshadow(pipeline: DiffusionPipeline, commons: Commons) -> None:
    """An engine over `pipeline` has closed; after the last one it is what it was."""
    users = _shadowed.get(id(pipeline), [])
    if (one := next((one for one in users if one.now is commons.now), None)) is not None:
        users.remove(one)
    if not users:
        _shadowed.pop(id(pipeline), None)
        if _OURS in vars(type(pipeline)):
            object.__setattr__(pipeline, "__class__", stock_class(pipeline))


class SeveralRequestsError(RuntimeError):
    """A forward of several requests has looked at the pipeline object, which is another one for each of them."""


@contextlib.contextmanager
def seen_by(views: Iterable[Views | None]) -> Iterator[None]:
    """Within a forward, code that closes over the user's pipeline (a cache that asks for the timestep) sees that of the
    request whose forward it is. One of several requests raises `SeveralRequestsError` there, and is run apart."""
    before, _forward.views = _forward.views, [one for one in views if one is not None]
    try:
        yield
    finally:
        _forward.views = before


class _SeenViews(threading.local):
    views: Sequence[Views] = ()


_forward = _SeenViews()


def _view(pipeline: object) -> DiffusionPipeline | None:
    strand = getcurrent()
    if isinstance(strand, Strand):
        return strand.views.get(id(pipeline))
    found = {id(own): own for views in _forward.views if (own := views.get(id(pipeline))) is not None}
    if len(found) > 1:
        raise SeveralRequestsError("code in the forward looks at the pipeline, which is each request's own")
    return next(iter(found.values()), None)


def _commons(pipeline: object) -> Commons | None:
    users = _shadowed.get(id(pipeline))
    return users[0].now if users else None


_classes: dict[type, type] = {}


def _class_for(kind: Any) -> Any:
    """A class of the same name, whose objects ask first whose they are now; one for each class."""
    if kind not in _classes:
        _classes[kind] = _made(kind)
    return _classes[kind]


def _made(kind: Any) -> type:

    def __getattribute__(self: Any, name: str) -> Any:
        view = _view(self)
        if view is not None and name != "__class__":
            return getattr(view, name)
        value = kind.__getattribute__(self, name)
        changes = name == "to" or name.startswith(_CHANGES)
        return _in_turn(self, value) if changes and callable(value) and id(self) in _shadowed else value

    def __setattr__(self: Any, name: str, value: Any) -> None:
        view = _view(self)
        if view is not None:
            setattr(view, name, value)
        else:
            kind.__setattr__(self, name, value)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        view, commons = _view(self), _commons(self)
        if view is not None:
            return kind.__call__(view, *args, **kwargs)
        if commons is None:
            return kind.__call__(self, *args, **kwargs)
        with commons.stock_call():
            return kind.__call__(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        function, (_, *arguments), *rest = kind.__reduce_ex__(self, protocol)
        return (function, (kind, *arguments), *rest)

    def __delattr__(self: Any, name: str) -> None:
        view = _view(self)
        kind.__delattr__(self if view is None else view, name)

    names = {
        "__getattribute__": __getattribute__,
        "__setattr__": __setattr__,
        "__delattr__": __delattr__,
        "__call__": functools.wraps(kind.__call__)(__call__),
        "__reduce_ex__": __reduce_ex__,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        _OURS: kind,
    }
    return type(kind.__name__, (kind,), names)


def _in_turn(pipeline: object, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that changes modules, all of it in one turn."""

    @functools.wraps(method)
    def in_turn(*args: Any, **kwargs: Any) -> Any:
        commons = _commons(pipeline)
        if commons is None:
            return method(*args, **kwargs)
        with commons.turn():
            return method(*args, **kwargs)

    return in_turn
