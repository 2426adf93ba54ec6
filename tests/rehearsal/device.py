"""Tensors on `fakegpu:0`, whose numbers lie in main memory: an operation over two devices raises as on a GPU.

Every time the host would wait for the device is noted with who asked for it, and so is everything that streams do to
each other: what one stream reads of another's without having waited for it is a race, as is memory that goes while
another stream may still use it. Numbers are real, so that outputs can be compared with the CPU's.
"""

import contextlib
import functools
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from interlace.engine.device.waits import reason_now

NAME = "fakegpu"
_ROOT = Path(__file__).resolve().parents[2]
_OWN = str(_ROOT / "interlace") + "/"
_PASSED_OVER = (str(Path(torch.__file__).parent) + "/", str(Path(__file__).parent) + "/", "<frozen")
aten: Any = torch.ops.aten

# Operations whose result the host has to know, or whose sizes depend on it.
_READS = {
    aten._local_scalar_dense.default: "item",
    aten.is_nonzero.default: "bool",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
}
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
_CLOCKLESS = {aten.detach.default, aten.alias.default, aten.view.default, aten.is_pinned.default}


class _Clock:
    """A stream, or the host: which tick of every stream it is behind."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, Counter[str]()
        self.given_up: dict[str, int] = {}  # memory of this stream: until where others still used it

    def tick(self) -> int:
        self.seen[self.name] += 1
        return self.seen[self.name]

    def behind(self, other: "_Clock | Counter[str]") -> None:
        seen = other.seen if isinstance(other, _Clock) else other
        for name, tick in seen.items():
            self.seen[name] = max(self.seen[name], tick)


class _Memory:
    """The storage of a tensor and its views: who made it, who last wrote it, who used it, and who was told."""

    def __init__(self, record: "Record", stream: _Clock) -> None:
        self.owner = stream
        for name, tick in stream.given_up.items():
            if stream.seen[name] < tick:
                record.races.append(f"{stream.name} uses memory again that {name} may still read")
        stream.given_up.clear()
        self.written: tuple[str, int] = (stream.name, 0)
        self.used: dict[str, int] = {}
        self.told: set[str] = set()

    def __del__(self) -> None:
        for name, tick in self.used.items():
            if name != self.owner.name and name not in self.told:
                self.owner.given_up[name] = max(self.owner.given_up.get(name, 0), tick)


class Stream:
    """As `torch.cuda.Stream`."""

    _numbers = itertools.count(1)

    def __init__(self, device: Any = None, name: str = "") -> None:
        self.clock = _Clock(name or f"stream {next(self._numbers)}")

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        RECORD.orders.append(("wait", self.clock.name, event.made_by))
        self.clock.behind(event.seen)

    def wait_stream(self, stream: "Stream") -> None:
        self.wait_event(stream.record_event())

    def synchronize(self) -> None:
        RECORD.wait("synchronize")
        RECORD.host.behind(self.clock)


class Event:
    """As `torch.cuda.Event`: done once it was asked twice, so that whoever asks has to ask again."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seen, self.made_by, self._asked = Counter[str](), "", 0

    def record(self, stream: "Stream | None" = None) -> None:
        stream = stream or RECORD.stream
        self.seen, self.made_by, self._asked = stream.clock.seen.copy(), stream.clock.name, 0
        RECORD.orders.append(("record", stream.clock.name, ""))

    def query(self) -> bool:
        self._asked += 1
        if self._asked > 1:
            RECORD.host.behind(self.seen)
        return self._asked > 1

    def synchronize(self) -> None:
        RECORD.wait("synchronize")
        self._asked = 2
        RECORD.host.behind(self.seen)

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


class Record:
    """What happened on the device. `waits` counts (who, kind, where, why) of the engine's thread."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str, str, str]] = Counter()
        self.orders: list[tuple[str, str, str]] = []
        self.races: list[str] = []
        self.main = Stream(name="main")
        self._now = threading.local()
        self.host = _Clock("host")
        self.pinned: dict[int, tuple[str, int]] = {}  # storages that a copy was sent to: until the host has waited

    @property
    def stream(self) -> Stream:
        """The current one of this thread."""
        return getattr(self._now, "stream", self.main)

    @stream.setter
    def stream(self, stream: Stream) -> None:
        self._now.stream = stream

    def clear(self) -> None:
        self.waits.clear()
        self.orders.clear()
        self.races.clear()

    def wait(self, kind: str) -> None:
        """The host waits for the current stream."""
        self.host.behind(self.stream.clock)
        if not threading.current_thread().name.startswith("interlace-engine"):
            return
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_PASSED_OVER):
            frame = frame.f_back
        file = frame.f_code.co_filename
        who = "engine" if file.startswith(_OWN) else "pipeline"
        where = f"{_short(file)}:{frame.f_code.co_qualname}"
        self.waits[who, kind, where, reason_now() if who == "engine" else ""] += 1


def _short(file: str) -> str:
    for mark in ("site-packages/", str(_ROOT) + "/"):
        if mark in file:
            return file.split(mark, 1)[1]
    return file


RECORD = Record()


class DeviceTensor(torch.Tensor):
    """On the device; `inner` holds its numbers."""

    inner: torch.Tensor
    memory: _Memory
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, memory: _Memory) -> "DeviceTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner, made.memory = inner, memory
        return made

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other: "DeviceTensor") -> None:
        torch.Tensor.data.__set__(self, other)
        self.inner, self.memory = other.inner, other.memory

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def record_stream(self, stream: Stream) -> None:
        RECORD.orders.append(("told", stream.clock.name, ""))
        self.memory.told.add(stream.clock.name)

    def tolist(self) -> Any:
        RECORD.wait("tolist")
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.inner})"


class OnDevice(TorchDispatchMode):
    """In a thread that has the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _is_device(value: Any) -> bool:
    return value is not None and torch.device(value).type == NAME


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    own = [one for one in flat if isinstance(one, DeviceTensor)]
    asked = kwargs.get("device")
    if func is aten.is_pinned.default:
        return _pinned(args[0])
    if func is aten._pin_memory.default:
        pinned = args[0].clone()
        pinned.fake_pinned = True
        return pinned
    if not own and not _is_device(asked):
        _check_host(func, flat)
        return func(*args, **kwargs)
    if func is aten.record_stream.default:
        return None
    if func in (aten._to_copy.default, aten.copy_.default):
        return _copied(func, args, kwargs)
    _check_devices(func, flat)
    return _on_device(func, flat, spec, own, wrap=asked is None or _is_device(asked))


def _check_host(func: Any, flat: list[Any]) -> None:
    if not RECORD.pinned:
        return
    for one in flat:
        if isinstance(one, torch.Tensor) and (sent := RECORD.pinned.get(one.untyped_storage()._cdata)):
            if func in _CLOCKLESS:
                continue
            if RECORD.host.seen[sent[0]] < sent[1]:
                RECORD.races.append(f"{func} on the host before its copy was waited for")
            del RECORD.pinned[one.untyped_storage()._cdata]


def _copied(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    source = args[0] if func is aten._to_copy.default else args[1]
    if func is aten.copy_.default:
        to_device = isinstance(args[0], DeviceTensor)
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    else:
        asked = kwargs.get("device")
        to_device = _is_device(asked) if asked is not None else isinstance(source, DeviceTensor)
        blocking = not kwargs.get("non_blocking", False)
    from_device = isinstance(source, DeviceTensor)
    if from_device:
        _use(source)
    raw = source.inner if from_device else source
    if from_device != to_device and (blocking or (to_device and not _pinned(source))):
        RECORD.wait("to the host" if from_device else "from the host")
    if func is aten.copy_.default:
        target = args[0]
        (target.inner if to_device else target).copy_(raw)
        if to_device:
            _write(target)
        elif from_device and not blocking:
            _sent(target)
        return target
    kwargs = {**kwargs, **({"device": "cpu"} if kwargs.get("device") is not None else {}), "non_blocking": False}
    kwargs.pop("pin_memory", None)
    made = aten._to_copy.default(raw, **kwargs)
    if to_device:
        tensor = DeviceTensor(made, _Memory(RECORD, RECORD.stream.clock))
        _write(tensor)
        return tensor
    if not blocking:
        _sent(made)
    return made


def _pinned(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "fake_pinned", False) or tensor.ndim == 0


def _sent(target: torch.Tensor) -> None:
    RECORD.pinned[target.untyped_storage()._cdata] = (RECORD.stream.clock.name, RECORD.stream.clock.tick())


def _check_devices(func: Any, flat: list[Any]) -> None:
    for one in flat:
        if not isinstance(one, torch.Tensor) or isinstance(one, DeviceTensor):
            continue
        if func in _INDEXING and not one.is_floating_point():
            RECORD.wait("from the host")
        elif one.ndim:
            raise RuntimeError(f"{func}: expected all tensors on {NAME}:0, found one of {tuple(one.shape)} on the CPU")


def _on_device(func: Any, flat: list[Any], spec: Any, own: list[DeviceTensor], *, wrap: bool) -> Any:
    for one in own:
        _use(one)
    if func in _READS:
        RECORD.wait(_READS[func])
    elif func in _INDEXING and any(one.dtype in (torch.bool, torch.uint8) for one in own[1:]):
        RECORD.wait("nonzero")
    elif func is aten.repeat_interleave.Tensor or func is aten.repeat_interleave.self_Tensor:
        RECORD.wait("repeat_interleave")
    by_inner = {id(one.inner): one for one in own}
    memories = {one.inner.untyped_storage()._cdata: one.memory for one in own}
    plain = [
        one.inner if isinstance(one, DeviceTensor) else torch.device("cpu") if _names_device(one) else one
        for one in flat
    ]
    args, kwargs = tree_unflatten(plain, spec)
    result = func(*args, **kwargs)
    mutable = func._schema.is_mutable

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in by_inner:
            known = by_inner[id(value)]
            if mutable:
                _write(known)
            return known
        if not wrap:
            return value
        memory = memories.get(value.untyped_storage()._cdata)
        made = DeviceTensor(value, memory or _Memory(RECORD, RECORD.stream.clock))
        if memory is None:
            _write(made)
        return made

    leaves, shape = tree_flatten(result)
    return tree_unflatten([wrapped(one) for one in leaves], shape)


def _names_device(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == NAME


def _use(tensor: DeviceTensor) -> None:
    clock, (name, tick) = RECORD.stream.clock, tensor.memory.written
    if name != clock.name and clock.seen[name] < tick:
        RECORD.races.append(f"{clock.name} uses what {name} made and hasn't waited for it")
    tensor.memory.used[clock.name] = clock.tick()


def _write(tensor: DeviceTensor) -> None:
    clock = RECORD.stream.clock
    tensor.memory.written = (clock.name, clock.tick())
    tensor.memory.used[clock.name] = tensor.memory.written[1]


class _Module:
    """As `torch.cuda`."""

    Stream, Event = Stream, Event

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def _lazy_init() -> None: ...

    @staticmethod
    def manual_seed_all(seed: int) -> None: ...

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def get_device_name(device: Any = None) -> str:
        return "Fake GPU"

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.Generator().manual_seed(0).get_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None: ...

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    @staticmethod
    def current_stream(device: Any = None) -> Stream:
        return RECORD.stream

    @staticmethod
    def set_stream(stream: Stream) -> None:
        RECORD.stream = stream

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: Stream) -> Iterator[None]:
        before, RECORD.stream = RECORD.stream, stream
        try:
            yield
        finally:
            RECORD.stream = before

    @staticmethod
    def synchronize(device: Any = None) -> None:
        RECORD.wait("synchronize")

    @staticmethod
    def empty_cache() -> None: ...


def _made_on_host(original: Any) -> Any:
    """`torch.tensor` and its like copy to a device below what Python sees: here it is one step more."""

    @functools.wraps(original)
    def make(data: Any, *, dtype: Any = None, device: Any = None, **rest: Any) -> Any:
        if not _is_device(device):
            return original(data, dtype=dtype, device=device, **rest)
        return original(data, dtype=dtype, **rest).to(device)

    return make


@contextlib.contextmanager
def on_device() -> Iterator[None]:
    """Within, tensors can be on the device in this thread; `OnDevice().__enter__` lets another thread in, too."""
    stock = torch.tensor, torch.as_tensor
    torch.tensor, torch.as_tensor = map(_made_on_host, stock)  # type: ignore[assignment]
    try:
        with OnDevice():
            yield
    finally:
        torch.tensor, torch.as_tensor = stock  # type: ignore[assignment]


def set_up() -> None:
    """Once in a process: torch knows the device."""
    _setup_privateuseone_for_python_backend(rename=NAME, backend_module=_Module())
