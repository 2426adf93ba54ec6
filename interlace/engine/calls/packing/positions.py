"""Rotary tables, handed to a denoiser in the place of those that it would compute: known ones, or by the row."""

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any

import torch

from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.digest import digest
from interlace.engine.calls.packing.packers import Packing, Tables, by_ids, packing_of
from interlace.engine.calls.packing.rotary import rotate_in_one_pass
from interlace.python.wraps import Wraps

_MAX_KNOWN = 8  # tables of one engine; those of a picture of a megapixel take 5 MB
wraps = Wraps()
_state = threading.local()  # .given: (pos_embed, what it is to return) within this thread's forward


class KnownTables:
    """The tables of calls whose ids were met before: stock denoisers compute them anew in every forward."""

    def __init__(self) -> None:
        """Until `close` the classes of `pos_embed` and diffusers' attention backends may be wrapped."""
        wraps.open()
        self._known: OrderedDict[Hashable, Tables] = OrderedDict()

    def of(self, call: ModuleCall, packing: Packing, num_text: int) -> Tables:
        """What `pos_embed` makes of the call's positions, with `num_text` text tokens."""
        assert packing.tables is not None
        pos_embed, named = call.target.module.get_submodule(packing.embed), call.named
        if packing.tables is not by_ids:
            return packing.tables(pos_embed, named, num_text)
        ids = (named["txt_ids"], named["img_ids"])
        contents = ((one.dtype, one.device, one.shape, digest(one, "positions")) for one in ids)
        key = (id(pos_embed), call.ambient, *contents)
        if key not in self._known:
            self._known[key] = packing.tables(pos_embed, named, num_text)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def close(self) -> None:
        """What was wrapped is as it was, when nobody else needs it."""
        self._known.clear()
        wraps.close()

    def within(self, call: ModuleCall) -> contextlib.AbstractContextManager[None]:
        """A forward of calls that all have the positions of `call`."""
        packing = packing_of(call.target.module)
        if packing is None or packing.tables is not by_ids or call.unfusable:
            return contextlib.nullcontext()
        rotate_in_one_pass(call.target.module, wraps)
        named = call.named
        if not all(
            isinstance(ids := named.get(name), torch.Tensor) and ids.ndim == 2 for name in ("txt_ids", "img_ids")
        ):
            return contextlib.nullcontext()
        return given(call.target.module.get_submodule(packing.embed), self.of(call, packing, len(named["txt_ids"])))


@contextlib.contextmanager
def given(pos_embed: torch.nn.Module, value: object) -> Iterator[None]:
    """Within, `pos_embed` returns `value` to this thread."""
    kind: Any = type(pos_embed)
    _watch(kind)
    _state.given = (pos_embed, value)
    try:
        yield
    finally:
        _state.given = None


@contextlib.contextmanager
def withheld() -> Iterator[None]:
    """Within, `pos_embed` computes what it is asked: the positions are not those of the call."""
    before, _state.given = getattr(_state, "given", None), None
    try:
        yield
    finally:
        _state.given = before


def _watch(kind: Any) -> None:
    """Lets every `pos_embed` of a class ask first whether its answer is given."""
    forward = kind.forward
    if getattr(forward, "may_be_given", False):
        return

    @functools.wraps(forward)
    def answer(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        now = getattr(_state, "given", None)
        return now[1] if now is not None and now[0] is self else forward(self, *args, **kwargs)

    answer.may_be_given = True  # type: ignore[attr-defined]
    wraps.replace(kind, "forward", answer)
