"""One part's replicas, each in an engine: a request goes to the one with the fewest under way, as soon as there is a
place and room for its keys and values. Safe from any thread."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from interlace.engine.engine import Engine
from interlace.engine.statistics import EngineStatistics, RequestCounts
from interlace.errors import AbortedError, TooLargeError
from interlace.stages.replicas.counts import summed
from interlace.units import show_bytes

Done = Callable[["Future[Any]"], None]
T = TypeVar("T")


@dataclass
class PartReplica:
    """A part in an engine that it may share with other parts: `modules` are its own, by name. At most `max_num_seqs`
    requests are here at once, and at most `kv_bytes` of keys and values (None: any number)."""

    engine: Engine
    modules: frozenset[str]
    max_num_seqs: int
    kv_bytes: int | None
    held: "dict[str, _Asked]" = field(default_factory=dict)

    @property
    def held_bytes(self) -> int:
        return sum(one.size for one in self.held.values())

    def has_room(self, size: int) -> bool:
        fits = self.kv_bytes is None or self.held_bytes + size <= self.kv_bytes
        return fits and len(self.held) < self.max_num_seqs

    def statistics(self) -> EngineStatistics:
        """The engine's; of what is counted by module, this part's alone."""

        def own(counts: Mapping[str, T]) -> dict[str, T]:
            return {label: count for label, count in counts.items() if _module_of(label) in self.modules}

        whole = self.engine.statistics()
        return replace(
            whole,
            forwards=own(whole.forwards),
            rows=own(whole.rows),
            widths=own(whole.widths),
            unfused=own(whole.unfused),
            cost=own(whole.cost),
        )


def _module_of(label: str) -> str:
    """Of `vae`, `vae.decode`, `vae (AutoencoderKL)` or a shape of it."""
    return label.partition(" ")[0].partition(".")[0]


@dataclass
class _Asked:
    key: str
    kwargs: Mapping[str, Any]
    size: int
    done: Done
    aborted: bool = False


class PartEngines:
    """The engines of the part `name`. Closes them."""

    def __init__(self, name: str, replicas: Sequence[PartReplica]) -> None:
        self.name = name
        self._places = list(replicas)
        self._waiting: deque[_Asked] = deque()
        self._ended_by = {"ok": 0, "error": 0, "aborted": 0}
        self._lock = threading.Lock()

    @property
    def engines(self) -> list[Engine]:
        return [place.engine for place in self._places]

    def check(self, size: int, tokens: int) -> None:
        """Raises `TooLargeError` for keys and values of so many tokens that never fit, with the numbers."""
        rooms = [place.kv_bytes for place in self._places]
        if None not in rooms and size > max(room or 0 for room in rooms):
            most = max(room or 0 for room in rooms)
            raise TooLargeError(
                f"{tokens} tokens of prompt and answer take {show_bytes(size)} of keys and values in the {self.name}; "
                f"there are {show_bytes(most)}: ask for fewer tokens, or give the {self.name} more memory_budget or "
                "kv_cache_gib"
            )

    def submit(self, kwargs: Mapping[str, object], key: str, size: int, done: Done) -> None:
        """Queue one request that keeps up to `size` bytes: `done(future)` hears of its end, unless it is aborted
        before it began."""
        with self._lock:
            self._waiting.append(_Asked(key, kwargs, size, done))
        self._admit()

    def abort(self, key: str) -> None:
        """End a request, wherever it is."""
        with self._lock:
            for one in list(self._waiting):
                if one.key == key:
                    self._waiting.remove(one)
            found = [place for place in self._places if key in place.held]
            for place in found:
                place.held[key].aborted = True
        for place in found:
            place.engine.abort(self._name_of(key))
        self._admit()

    def statistics(self) -> EngineStatistics:
        """Of all its replicas together. Seconds are those of whole engines, other parts' among them."""
        counted = summed([place.statistics() for place in self._places]) or EngineStatistics()
        with self._lock:
            live = len(self._waiting) + sum(len(place.held) for place in self._places)
            return replace(counted, requests=RequestCounts(**self._ended_by, live=live))

    def stats(self) -> dict[str, object]:
        """As `Engine.stats`, summed; what waits for room, and bytes of keys and values by replica, beside it."""
        with self._lock:
            held = [place.held_bytes for place in self._places]
            waiting = len(self._waiting)
        kept = [{"held": now, "budget": place.kv_bytes} for now, place in zip(held, self._places, strict=True)]
        return {**self.statistics().as_dict(), "waiting_for_room": waiting, "kv_bytes": kept}

    def describe(self) -> dict[str, object]:
        """Where it runs, and forwards so far by module."""
        devices = [str(engine.pipeline.device) for engine in self.engines]
        return {"part": self.name, "devices": devices, "forwards": dict(self.statistics().forwards)}

    def close(self) -> None:
        with self._lock:
            self._waiting.clear()
        for engine in self.engines:
            engine.close()

    def _admit(self) -> None:
        """Hands out what waits, in order, as far as there is room."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                size = self._waiting[0].size
                free = [place for place in self._places if place.has_room(size)]
                if not free:
                    return
                one, place = self._waiting.popleft(), min(free, key=lambda place: len(place.held))
                place.held[one.key] = one
            self._start(one, place)

    def _start(self, one: _Asked, place: PartReplica) -> None:
        try:
            asked = {"part": self.name, **one.kwargs}
            future: Future[Any] = place.engine.submit(asked, request_id=self._name_of(one.key))
        except Exception as error:  # closed, or dead
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda done: self._ended(one, place, done))
        if one.aborted:  # while it was handed over
            place.engine.abort(self._name_of(one.key))

    def _name_of(self, key: str) -> str:
        """Of a request, in an engine where other parts work at it, too."""
        return f"{key}/{self.name}"

    def _ended(self, one: _Asked, place: PartReplica, future: "Future[Any]") -> None:
        error = future.exception()
        how = "ok" if error is None else "aborted" if isinstance(error, AbortedError) else "error"
        with self._lock:
            place.held.pop(one.key, None)
            self._ended_by[how] += 1
        one.done(future)
        self._admit()
