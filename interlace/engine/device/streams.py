"""Streams and events of a device: what is queued beside what, and when it is done.

Torch's modules for CUDA and XPU have them. On a CPU, and where torch has no streams (MPS), all is queued one behind
the other as ever.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from interlace.engine import accelerator

_NAMES = ("Stream", "Event", "stream", "current_stream")


def has_streams(device: torch.device) -> bool:
    """Whether work can be queued beside other work, and host memory pinned."""
    module = accelerator.module_of(device) if device.type != "cpu" else None
    return module is not None and all(hasattr(module, name) for name in _NAMES)


def recorded(device: torch.device) -> Any:
    """An event behind all that this thread has queued on its current stream."""
    module = accelerator.module_of(device)
    event = module.Event()
    event.record(module.current_stream(device))
    return event


class Stopwatch:
    """The device's own seconds between `start` and `stop`, known once it has come that far."""

    def __init__(self, device: torch.device) -> None:
        module = accelerator.module_of(device)
        self._begun, self._ended = module.Event(enable_timing=True), module.Event(enable_timing=True)
        self._stream = module.current_stream(device)
        self._begun.record(self._stream)

    def stop(self) -> None:
        """What was queued since the start is to be measured."""
        self._ended.record(self._stream)

    def seconds(self) -> float | None:
        """None while it still runs."""
        return self._begun.elapsed_time(self._ended) / 1000 if self._ended.query() else None


class StreamPair:
    """A device's main stream, where the engine works, and one beside it for decodes and what follows them.

    Work aside happens in windows: `queued_aside`, something on the main stream, `continued`. A window begins behind all
    that the main stream was given so far, and what the main stream is given afterwards is behind the window. Torch's
    allocator gives memory again to what comes next on the stream that it was made for; so what was given up on either
    stream is only used again when the other is done with it, as long as nothing that was made aside is given up on the
    main stream within a window.
    """

    def __init__(self, device: torch.device) -> None:
        self._module = accelerator.module_of(device)
        self._main, self._aside = self._module.current_stream(device), self._module.Stream(device)

    @contextlib.contextmanager
    def queued_aside(self) -> Iterator[None]:
        """Opens a window: what is queued within runs beside what the main stream is given from now on."""
        self._aside.wait_stream(self._main)
        with self._module.stream(self._aside):
            yield

    @contextlib.contextmanager
    def continued(self) -> Iterator[None]:
        """Goes on with what was queued aside, and closes the window."""
        try:
            with self._module.stream(self._aside):
                yield
        finally:
            self._main.wait_stream(self._aside)

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """Made aside, and given up by somebody else at any time: the allocator is told that the main stream has it."""
        for tensor in tensors:
            if tensor.device.type != "cpu":
                tensor.record_stream(self._main)
