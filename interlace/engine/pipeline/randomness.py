"""torch's global random numbers, for each request its own: nobody's draws move anybody else's, nor the process's.

Torch has one global generator a device for all threads. While engines are open, its functions that draw ask first
whether the thread runs a request, and then draw from that request's generators; everybody else draws as ever.
"""

import functools
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import torch

from interlace.engine import accelerator
from interlace.python.wraps import Wraps

_now = threading.local()
_TRACERS = (torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY)
_CREATE = ("rand", "randn", "randint", "randperm")  # on a device that is given
_LIKE = ("rand_like", "randn_like", "randint_like", "normal", "bernoulli", "multinomial", "poisson")  # on a tensor's
_METHODS = (
    "normal_",
    "uniform_",
    "random_",
    "exponential_",
    "cauchy_",
    "log_normal_",
    "geometric_",
    "bernoulli_",
    "bernoulli",
    "multinomial",
)


class Randomness:
    """One request's generators, by device: the CPU's from `state`, the others' as they are in this thread now."""

    __slots__ = ("_generators", "_states")

    def __init__(self, state: torch.Tensor | None = None, seed: int | None = None) -> None:
        """From the global generators' state, from one that is given, or from a seed."""
        self._generators: dict[torch.device, torch.Generator] = {}
        self._states: dict[torch.device, torch.Tensor | int] = {}
        cpu = torch.device("cpu")
        self._states[cpu] = seed if seed is not None else state if state is not None else _global_state()
        for device, read in accelerator.states():
            self._states[device] = seed if seed is not None else read(device)

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator that stands for the global one of `device`."""
        device = device if device.type == "cpu" else accelerator.numbered(device)
        if device not in self._generators:
            generator = self._generators[device] = torch.Generator(device)
            start = self._states.get(device, self._states[torch.device("cpu")])
            if isinstance(start, int):
                generator.manual_seed(start)
            elif device in self._states:
                generator.set_state(start)
            else:
                generator.manual_seed(_as_seed(start, 0))
        return self._generators[device]

    def reseed(self, seed: int) -> None:
        """As `torch.manual_seed`, for this request."""
        self._generators.clear()
        self._states = dict.fromkeys(self._states, seed)

    def continue_from(self, other: "Randomness") -> None:
        """The numbers that come after those that `other` has drawn so far."""
        new = other.copy()
        self._generators, self._states = new._generators, dict(new._states)

    def copy(self) -> "Randomness":
        """The same numbers again, for a forward that is nobody's own."""
        new = Randomness.__new__(Randomness)
        new._generators = {device: one.clone_state() for device, one in self._generators.items()}
        new._states = self._states
        return new


class _Copied:
    """A copy that is made when something is drawn."""

    def __init__(self, original: Randomness) -> None:
        self._original, self._copy = original, None  # type: Randomness, Randomness | None

    def generator(self, device: torch.device) -> torch.Generator:
        self._copy = self._copy or self._original.copy()
        return self._copy.generator(device)

    def reseed(self, seed: int) -> None:
        self._copy = self._copy or self._original.copy()
        self._copy.reseed(seed)


def _own() -> "Randomness | _Copied | None":
    """What this thread draws from; None for the global generators, as where a compiler traces and nothing is drawn."""
    own: Randomness | _Copied | None = getattr(_now, "own", None)
    return own if own is None or not any(map(torch._C._get_dispatch_mode, _TRACERS)) else None


def current() -> Randomness | None:
    """What this thread draws from, where it runs a request."""
    own = getattr(_now, "own", None)
    return own if isinstance(own, Randomness) else None


def set_current(randomness: "Randomness | _Copied | None") -> None:
    """From now on this thread draws from `randomness`; None: from the global generators."""
    _now.own = randomness


def set_copy(randomness: Randomness) -> None:
    """From now on this thread draws what `randomness` would give, without moving it."""
    _now.own = _Copied(randomness)


_seedings = 0  # how often anybody set the global generator
_last: tuple[int, bytes, int] = (-1, b"", 0)  # seedings, state, how many requests continued from it
_lock = threading.Lock()


def continued() -> Randomness:
    """For a request without a generator: the caller's state, which stays where it is.

    The first request continues from it as a stock call would. Further ones from the very same state, which stock calls
    would have moved on, get numbers of their own that follow from the state and their count.
    """
    global _last
    state = _global_state()
    content = hashlib.blake2b(state.numpy().tobytes(), digest_size=16).digest()
    with _lock:
        again = _last[:2] == (_seedings, content)
        count = _last[2] + 1 if again else 0
        _last = (_seedings, content, count)
    return Randomness(state) if count == 0 else Randomness(seed=_as_seed(state, count))


def _as_seed(state: torch.Tensor, count: int) -> int:
    data = hashlib.blake2b(state.numpy().tobytes(), digest_size=8, salt=count.to_bytes(8, "little"))
    return int.from_bytes(data.digest(), "little") >> 1


_stocks: dict[str, Callable[..., Any]] = {}


def _stock(name: str) -> Callable[..., Any]:
    """Torch's own function, wrapped or not."""
    return _stocks.get(name, torch.get_rng_state)


def _global_state() -> torch.Tensor:
    return _stock("state")()


def _wrap_all() -> None:
    _stocks.update(state=torch.get_rng_state)
    for name in _CREATE:
        wraps.replace(torch, name, _creating(getattr(torch, name)))
    for name in _LIKE:
        wraps.replace(torch, name, _drawing(getattr(torch, name)))
    for name in _METHODS:
        wraps.replace(torch.Tensor, name, _drawing(getattr(torch.Tensor, name)))
    for module in (torch, torch.random):
        wraps.replace(module, "manual_seed", _seeding(module.manual_seed))
        wraps.replace(module, "seed", _seeding_anew(module.seed))
        wraps.replace(module, "get_rng_state", _getting(module.get_rng_state))
        wraps.replace(module, "set_rng_state", _setting(module.set_rng_state))


def _creating(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def draw(*args: Any, **kwargs: Any) -> Any:
        own = _own()
        if own is not None and kwargs.get("generator") is None and kwargs.get("names") is None:
            device = kwargs.get("device")
            kwargs["generator"] = own.generator(torch.get_default_device() if device is None else torch.device(device))
        return original(*args, **kwargs)

    return draw


def _drawing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def draw(*args: Any, **kwargs: Any) -> Any:
        own = _own()
        if own is not None and kwargs.get("generator") is None:
            tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
            device = tensor.device if tensor is not None else torch.device(kwargs.get("device") or "cpu")
            if device.type != "meta":
                kwargs["generator"] = own.generator(device)
        return original(*args, **kwargs)

    return draw


def _seeding(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def manual_seed(seed: Any) -> torch.Generator:
        global _seedings
        own = _own()
        if own is None:
            _seedings += 1
            return original(seed)
        own.reseed(int(seed))
        return own.generator(torch.device("cpu"))

    return manual_seed


def _seeding_anew(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def seed() -> int:
        own = _own()
        return original() if own is None else own.generator(torch.device("cpu")).seed()

    return seed


def _getting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_rng_state() -> torch.Tensor:
        own = _own()
        return original() if own is None else own.generator(torch.device("cpu")).get_state()

    return get_rng_state


def _setting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def set_rng_state(new_state: torch.Tensor) -> None:
        global _seedings
        own = _own()
        if own is None:
            _seedings += 1
            original(new_state)
        else:
            own.generator(torch.device("cpu")).set_state(new_state)

    return set_rng_state


wraps = Wraps(_wrap_all)  # of the functions that draw, open while anybody's requests run
