"""Objects over a connection between two processes; pictures, arrays and tensors through memory that both see.

Large buffers leave the pickle (protocol 5) and travel in one anonymous memory file whose descriptor is sent along:
it has no name, so nothing is left behind when a process is killed. Where there are no such files (not on Linux), and
for little, the bytes go through the connection.
"""

import io
import mmap
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from socket import AF_UNIX, SOCK_STREAM, recv_fds, send_fds, socket
from typing import Any

from PIL import Image

from interlace.errors import RequestError

_LARGE = 64 * 2**10  # bytes of buffers from which on they are shared
_PLAIN_MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "F", "CMYK", "HSV", "YCbCr")


class ProcessChannel:
    """One end. `send` from any thread; `receive` from one."""

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Raises `OSError` when the other end is gone; what can't be pickled raises what pickle raises."""
        data, buffers = _pickled(message)
        sizes = [buffer.nbytes for buffer in buffers]
        shared = sum(sizes) >= _LARGE and hasattr(os, "memfd_create")
        memory = _written(buffers) if shared else None
        try:
            with self._lock:
                self._connection.send_bytes(pickle.dumps((sizes, shared)))
                self._connection.send_bytes(data)
                if memory is not None:
                    self._send_descriptor(memory)
                else:
                    for buffer in buffers:
                        self._connection.send_bytes(buffer)
        finally:
            if memory is not None:
                os.close(memory)

    def receive(self) -> object:
        """The next message. Raises `EOFError` or `OSError` when the other end is gone."""
        sizes, shared = pickle.loads(self._connection.recv_bytes())
        data = self._connection.recv_bytes()
        if shared:
            return pickle.loads(data, buffers=_mapped(self._receive_descriptor(), sizes))
        return pickle.loads(data, buffers=[bytearray(self._connection.recv_bytes()) for _ in sizes])

    def close(self) -> None:
        with suppress(OSError):
            self._connection.close()

    def _send_descriptor(self, descriptor: int) -> None:
        with socket(AF_UNIX, SOCK_STREAM, fileno=os.dup(self._connection.fileno())) as way:
            send_fds(way, [b"\0"], [descriptor])

    def _receive_descriptor(self) -> int:
        with socket(AF_UNIX, SOCK_STREAM, fileno=os.dup(self._connection.fileno())) as way:
            _, descriptors, _, _ = recv_fds(way, 1, 1)
        if not descriptors:
            raise EOFError("the other end is gone")
        return descriptors[0]


def packed(message: object) -> list[bytes]:
    """A message for a way that carries bytes: the pickle, then its large buffers. Raises what pickle raises."""
    data, buffers = _pickled(message)
    return [data, *map(bytes, buffers)]


def unpacked(parts: Sequence[bytes]) -> Any:
    """What `packed` was given; pictures and tensors are this process's own."""
    return pickle.loads(parts[0], buffers=[bytearray(part) for part in parts[1:]])


class _Pickler(pickle.Pickler):
    """Pickles pictures and tensors as buffers, and errors so that they can be read."""

    def reducer_override(self, thing: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and type(thing) is torch.Tensor and thing.layout is torch.strided:
            return _reduce_tensor(thing)
        if isinstance(thing, Image.Image) and thing.mode in _PLAIN_MODES:
            info = {name: value for name, value in thing.info.items() if isinstance(value, (str, bytes, int, float))}
            return _picture, (thing.mode, thing.size, pickle.PickleBuffer(thing.tobytes()), info)
        if isinstance(thing, BaseException):
            return _reduce_error(thing)
        return NotImplemented


def _pickled(message: object) -> tuple[bytes, list[memoryview]]:
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(message)
    return stream.getvalue(), [buffer.raw() for buffer in buffers]


def _written(buffers: Sequence[memoryview]) -> int:
    """The descriptor of a memory file that holds the buffers, one after the other."""
    descriptor = os.memfd_create("interlace")
    for buffer in buffers:
        left = buffer
        while left.nbytes:
            left = left[os.write(descriptor, left) :]
    return descriptor


def _mapped(descriptor: int, sizes: Sequence[int]) -> list[memoryview]:
    """The buffers in a memory file, as this process's own: what is written there nobody else sees."""
    try:
        whole = memoryview(mmap.mmap(descriptor, sum(sizes), flags=mmap.MAP_PRIVATE))
    finally:
        os.close(descriptor)
    buffers, start = [], 0
    for size in sizes:
        buffers.append(whole[start : start + size])
        start += size
    return buffers


def _reduce_tensor(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)  # dense, whatever the tensor's strides are
    flat.view(tensor.shape).copy_(tensor.detach())
    return _tensor, (pickle.PickleBuffer(flat.view(torch.uint8).numpy()), tensor.dtype, tuple(tensor.shape))


def _tensor(buffer: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    import torch

    if memoryview(buffer).nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape)


def _picture(mode: str, size: tuple[int, int], buffer: Any, info: dict[str, Any]) -> Image.Image:
    picture = Image.frombytes(mode, size, bytes(buffer) if mode == "1" else buffer)
    picture.info.update(info)
    return picture


def _reduce_error(error: BaseException) -> Any:
    """As it is where that survives the way, else as a `RequestError` with its words; with its traceback as a note."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error.__reduce_ex__(5)
    except Exception:
        copy = None
    text = f"{type(error).__name__}: {error}"
    told = RequestError(text)
    told.add_note("".join(traceback.format_exception(error)))
    return told.__reduce_ex__(5)
