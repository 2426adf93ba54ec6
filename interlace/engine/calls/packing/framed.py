"""Frames of different lengths in one forward, for denoisers of sound that attend by blocks: padded at the end, and
padding is nobody's to see. Everything else in them looks at one frame alone. Knows nothing of what is heard."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from interlace.engine.device.host import on_device


class FramedCall(Protocol):
    """What is asked of a call."""

    rows: int

    @property
    def target(self) -> Any: ...

    @property
    def named(self) -> dict[str, Any]: ...


# class -> its arguments [rows, frames, ...], frames of which are padded; the first says how long a row is
FRAMED: dict[str, tuple[str, ...]] = {
    "Qwen2_5OmniToken2WavDiTModel": ("hidden_states", "quantized_code", "speaker_embedding"),
}


def frames(call: FramedCall) -> int | None:
    """The frames in each row of a call; None where rows of other lengths can't join."""
    names = FRAMED.get(type(call.target.module).__name__)
    return call.named[names[0]].shape[1] if names else None


@contextlib.contextmanager
def own_frames(calls: Sequence[FramedCall]) -> Iterator[None]:
    """A forward of `calls`, fused: each row attends to its own frames, and what is the same for all is made once."""
    lengths = [frames(call) for call in calls]
    if lengths[0] is None:
        yield
        return
    module: Any = calls[0].target.module
    rows = [length for length, call in zip(lengths, calls, strict=True) for _ in range(call.rows)]
    stock, padded = module._create_block_diff, len(set(lengths)) > 1

    def apart(hidden_states: Tensor) -> Tensor:
        """[rows or 1, 1, frames, frames]: how many blocks each frame is from each, endlessly many from padding."""
        distance = stock(hidden_states)[:1, :1].float()
        if not padded:
            return distance
        known = on_device(rows * (len(hidden_states) // len(rows)), hidden_states.device)
        places = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        padding = places >= known[:, None]
        distance = distance.masked_fill(padding[:, None, None], float("inf"))
        itself = places[:, None] == places
        return distance.masked_fill(itself, 0.0)  # padding sees itself: no row of attention is empty

    module.__dict__["_create_block_diff"] = apart
    try:
        yield
    finally:
        module.__dict__.pop("_create_block_diff", None)
