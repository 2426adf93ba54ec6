"""Weights that a request's callback changes in place, past every method of their module: copied first.

Torch tells a mode of every function that is called while it is on; it is on for the callback alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from greenlet import getcurrent
from torch.overrides import TorchFunctionMode

from interlace.engine.pipeline.strand import Strand
from interlace.engine.pipeline.variants.journal import current, watched

_WRITING = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__", "__setitem__"}


class InPlace(TorchFunctionMode):
    """Before a shared weight is written to, or a view of it handed out, the request gets a copy of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._own: set[int] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, torch.nn.Parameter) and id(first) not in self._own:
            if _writes(getattr(function, "__name__", "")):
                self._copy(first)
            else:
                result = function(*args, **kwargs)
                if not _is_view(result, first):
                    return result
                self._copy(first)
        return function(*args, **kwargs)

    def _copy(self, parameter: torch.nn.Parameter) -> None:
        self._own.add(id(parameter))
        recorder = current()
        if recorder is None or not recorder.private:
            return
        for watch in list(watched.values()):
            if any(one is parameter for one in watch.module._parameters.values()):
                recorder.data(watch.module, copy=True)
                self._own.update(id(one) for one in watch.module._parameters.values())
                return


def _writes(name: str) -> bool:
    in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    return in_place or name in _WRITING


def _is_view(result: Any, parameter: torch.Tensor) -> bool:
    if not isinstance(result, torch.Tensor) or result is parameter or parameter.layout is not torch.strided:
        return False
    return result.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()


def careful(value: Any) -> Any:
    """An argument of a request: where it is a callback of its owner's, one whose changes of weights stay its own."""
    if not callable(value) or isinstance(value, (torch.nn.Module, type, PipelineCallback, MultiPipelineCallbacks)):
        return value

    def within(*args: Any, **kwargs: Any) -> Any:
        strand = getcurrent()
        if not isinstance(strand, Strand) or strand.mode is not None:
            return value(*args, **kwargs)
        strand.mode = InPlace()
        try:
            with strand.mode:
                return value(*args, **kwargs)
        finally:
            strand.mode = None

    return within


def callbacks(kwargs: Any) -> dict[str, Callable[..., Any]]:
    """Those of a request's arguments that are called between steps, careful."""
    names = ("callback_on_step_end", "callback")
    return {name: careful(kwargs[name]) for name in names if kwargs.get(name) is not None}
