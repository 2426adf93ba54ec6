"""Sees who writes to modules: everything that changes a watched module passes here first, and is noted.

`nn.Module`'s own ways of changing (attributes, hooks, casts, weights) and the few of diffusers and peft that go around
them are wrapped while an engine is open. Knows nothing of engines or requests.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from interlace.engine.pipeline.variants.recorder import Recorder, current, note_written, watched, writing
from interlace.python.deferred.modules import when_run
from interlace.python.wraps import Wraps

_FORWARDS = frozenset({"forward", "encode", "decode", "generate", "_compiled_call_impl"})
on_forward_written: list[Callable[[torch.nn.Module, str], None]] = []


def _wrap_all() -> None:
    module = torch.nn.Module
    wraps.replace(module, "__setattr__", _noting_name(module.__setattr__))
    wraps.replace(module, "__delattr__", _noting_name(module.__delattr__))
    for name in (
        "add_module",
        "register_parameter",
        "register_buffer",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
    ):
        _wrap(module, name, lambda recorder, self: recorder.touch(self))
    wraps.replace(module, "_apply", _noting_cast(module._apply))
    _wrap(module, "load_state_dict", _note_weights)
    handle = torch.utils.hooks.RemovableHandle
    wraps.replace(handle, "remove", _noting_removal(handle.remove))
    for kind in _with_processors():
        _wrap_own(kind, ("set_processor",), _touch)


def _with_processors() -> Iterator[type]:
    """Classes of diffusers whose modules change without being told."""
    from diffusers.models.attention_processor import Attention

    yield Attention
    with contextlib.suppress(ImportError):
        from diffusers.models.attention import AttentionModuleMixin

        yield AttentionModuleMixin


def _wrap_adapters() -> None:
    """What changes peft's layers without telling them."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import hotswap

    swap = "hotswap_adapter_from_state_dict"
    wraps.replace(hotswap, swap, _noting_swap(hotswap.hotswap_adapter_from_state_dict, BaseTunerLayer))
    for kind in _subclasses(BaseTunerLayer):
        _wrap_own(kind, ("set_scale", "scale_layer", "unscale_layer", "update_layer", "delete_adapter"), _touch)
        _wrap_own(kind, ("merge", "unmerge"), _note_base)


def _touch(recorder: Recorder, module: torch.nn.Module) -> None:
    recorder.touch(module)


def _note_base(recorder: Recorder, layer: Any) -> None:
    recorder.touch(layer)
    recorder.data(layer.get_base_layer(), copy=True)


def _subclasses(kind: type) -> set[type]:
    found, todo = set[type](), [kind]
    while todo:
        one = todo.pop()
        found.add(one)
        todo += one.__subclasses__()
    return found


def _noting_cast(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def noted(self: torch.nn.Module, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if current() is None and id(self) not in watched:
            return original(self, fn, *args, **kwargs)
        with writing(self) as recorder:
            recorder.touch(self)
            recorder.data(self)
            if recorder.private:
                fn = fn if isinstance(fn, _Cast) else _Cast(fn, recorder.casts)
            elif not recorder.within_forward:
                note_written()
            return original(self, fn, *args, **kwargs)

    return noted


class _Cast:
    """A cast whose results all requests share: equal casts give one tensor, and casting back gives the one before."""

    def __init__(self, cast: Callable[..., Any], known: dict[Any, Any]) -> None:
        self._cast, self._known = cast, known

    def __call__(self, tensor: torch.Tensor) -> Any:
        result = self._cast(tensor)
        if result is tensor or result.dtype == tensor.dtype or result.device != tensor.device:
            return result
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), result.dtype)
        if key not in self._known:
            source, made = tensor.detach(), result.detach()
            self._known[key] = (source, made)
            if torch.promote_types(source.dtype, made.dtype) == made.dtype:  # nothing was lost
                back = (made.data_ptr(), made.dtype, made.shape, made.stride(), source.dtype)
                self._known[back] = (made, source)
        return self._known[key][1]


def _note_weights(recorder: Recorder, module: torch.nn.Module) -> None:
    for part in module.modules():
        recorder.touch(part)
        recorder.data(part, copy=True)


def _wrap_own(kind: type, names: tuple[str, ...], note: Callable[[Recorder, Any], None]) -> None:
    for name in names:
        if name in vars(kind):
            _wrap(kind, name, note)


def _wrap(kind: type, name: str, note: Callable[[Recorder, Any], None]) -> None:
    original = getattr(kind, name)

    @functools.wraps(original)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current() is None and id(self) not in watched:
            return original(self, *args, **kwargs)
        with writing(self) as recorder:
            note(recorder, self)
            if not recorder.private and not recorder.within_forward:
                note_written()
            return original(self, *args, **kwargs)

    wraps.replace(kind, name, noted)


def _noting_swap(original: Callable[..., None], kind: Any) -> Callable[..., None]:
    """Of an adapter's weights, in their place, in layers of this kind."""

    @functools.wraps(original)
    def noted(model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        with writing(model) as recorder:
            for layer in model.modules():
                if isinstance(layer, kind):
                    recorder.touch(layer)
                    for part in layer.modules():
                        if part is not layer.get_base_layer():
                            recorder.data(part, copy=True)
            original(model, *args, **kwargs)
            if not recorder.private and not recorder.within_forward:
                note_written()

    return noted


def _noting_name(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def noted(self: torch.nn.Module, name: str, *value: Any) -> None:
        if id(self) not in watched:
            original(self, name, *value)
            return
        recorder = current()
        if recorder is not None:
            recorder.touch(self)
            original(self, name, *value)
            if recorder.private:
                return
        else:
            with watched[id(self)].turns.turn() as own:
                own.touch(self)
                original(self, name, *value)
        if recorder is None or not recorder.within_forward:
            note_written()
        if name in _FORWARDS:
            for tell in on_forward_written:
                tell(self, name)

    return noted


def _noting_removal(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def noted(self: Any) -> None:
        recorder = current()
        if recorder is not None:
            for reference in (self.hooks_dict_ref, *getattr(self, "extra_dict_ref", ())):
                if (hooks := reference()) is not None:
                    recorder.contents(hooks)
        original(self)

    return noted


wraps = Wraps(_wrap_all)  # of what changes modules, open while engines are
when_run("peft", lambda: wraps.add(_wrap_adapters))
