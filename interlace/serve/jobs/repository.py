"""Several models behind one server: each opened when it is first asked for, and closed when another needs its room.

Owned by the event loop's thread; models are opened and closed in a thread of its own, one at a time.
"""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Literal

from interlace.async_omni import AsyncOmni
from interlace.engine.accelerator import empty_cache
from interlace.engine.engine import Engine
from interlace.engine.memory.footprint import weight_bytes
from interlace.engine.memory.sharing import SharedBudget
from interlace.models.films.lengths import Makes
from interlace.serve.http.errors import ApiError
from interlace.serve.jobs.models import Lane, Lanes, make_lanes
from interlace.serve.settings import ServeSettings
from interlace.units import show_bytes

logger = logging.getLogger("interlace.serve")
_PATIENCE_S = 5.0  # after which a busy model, too, makes room: it finishes what it has and takes nothing new
_EDITS = "-edit"  # how what edits with a model's weights is called

Opened = tuple[AsyncOmni, AsyncOmni | None]  # what draws, and what edits where that is another
OfferState = Literal["unloaded", "loading", "loaded"]


@dataclass(frozen=True)
class Offer:
    """A model that may be asked for. `open` loads it, which takes a while; it runs in a worker."""

    name: str
    open: Callable[[], Opened]
    num_bytes: int = 0  # of its weights, as far as they are known before it is loaded
    makes: Makes = "pictures"  # likewise what comes out of it


@dataclass(eq=False)
class _Standing:
    """One offer and where it stands. `closing`: it takes nothing new until it has made room."""

    offer: Offer
    num_bytes: int
    makes: Makes
    lanes: Lanes | None = None
    state: OfferState = "unloaded"
    closing: bool = False
    holds: int = 0
    used: float = 0.0
    num_loads: int = 0
    names: list[str] = field(default_factory=list)
    opening: "asyncio.Task[None] | None" = None

    def answers_to(self, model: str) -> bool:
        return model in (self.offer.name, self.offer.name + _EDITS, *self.names)


@dataclass(frozen=True)
class Wait:
    """A request that waits for a model to be loaded."""

    request_id: str
    client: str
    model: str
    since: float = field(default_factory=time)  # Unix seconds


class ModelRepository:
    """The models of one server. `max_loaded` of them are open at once, and no more than `budget` bytes of weights.

    `is_busy(lane)` says whether requests of a lane are under way; `changed()` tells that one has ended.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        settings: ServeSettings,
        *,
        max_loaded: int | None = None,
        budget: int | None = None,
    ) -> None:
        self.settings = settings
        self.is_busy: Callable[[Lane], bool] = lambda lane: False
        self.waits: list[Wait] = []
        self._slots = [_Standing(offer, offer.num_bytes, offer.makes) for offer in offers]
        self._max_loaded, self._budget = max_loaded or len(offers), budget
        self._turn = asyncio.Lock()  # models are loaded one after the other
        self._news = asyncio.Condition()
        self._worker = ThreadPoolExecutor(1, "models")
        self._last: Lanes | None = None
        self._memory = SharedBudget()

    @classmethod
    def around(cls, lanes: Lanes) -> "ModelRepository":
        """Of one model that is open and stays so."""
        repository = cls([Offer(lanes.draw.name, _never)], lanes.settings)
        repository._opened(repository._slots[0], lanes)
        repository._memory.enter(*_engines(lanes))
        return repository

    @property
    def all(self) -> list[Lane]:
        """The lanes of the models that are open, each engine once."""
        return [lane for slot in self._slots if slot.lanes is not None for lane in slot.lanes.all]

    @property
    def current(self) -> Lanes:
        """Of the first model, or while that is closed of the one that was opened last.

        Raises `ApiError` (503) before any.
        """
        first = self._slots[0].lanes or self._last
        if first is None:
            raise ApiError(503, "no model is loaded yet; try again in a moment", code="model_loading")
        return first

    @property
    def names(self) -> list[str]:
        """What a request may give as `model`."""
        own = [name for slot in self._slots for name in slot.names or [slot.offer.name]]
        return list(dict.fromkeys([*own, *self.settings.model_alias]))

    @property
    def has_several(self) -> bool:
        """Whether there is a choice."""
        return len(self._slots) > 1

    def lanes_named(self, model: str) -> Lanes | None:
        """The open model that answers to a name; None where it is closed."""
        return next((slot.lanes for slot in self._slots if slot.answers_to(model)), self.current)

    def describe(self) -> list[dict[str, object]]:
        """Each model's name, state, loads so far, bytes of weights, and how many requests wait for it."""
        waiting = [wait.model for wait in self.waits]
        return [
            {
                "id": slot.offer.name,
                "state": slot.state,
                "loads": slot.num_loads,
                "bytes": slot.num_bytes,
                "waiting": waiting.count(slot.offer.name),
            }
            for slot in self._slots
        ]

    async def open_first(self) -> None:
        """Opens models from the first on, as many as may be open at once."""
        for slot in self._slots[: self._max_loaded]:
            if slot.lanes is None and self._fits(slot, self._slots):
                await self._open(slot)

    async def take(
        self, model: str | None, request_id: str = "", client: str = "", makes: Makes = "pictures"
    ) -> tuple[Lanes, Callable[[], None]]:
        """The lanes that serve `model` (of none, the first that `makes` that), opened if need be, and their release.

        Raises `ApiError`: 404 for a name that nobody has, 503 for a model that can't be loaded.
        """
        slot = self._slot_of(model, makes)
        slot.used = monotonic()
        if slot.lanes is None or slot.closing:
            wait = Wait(request_id, client, slot.offer.name)
            self.waits.append(wait)
            try:
                await self._ready(slot)
            finally:
                self.waits.remove(wait)
        assert slot.lanes is not None
        slot.holds += 1
        return slot.lanes, lambda: self._give_back(slot)

    async def _ready(self, slot: _Standing) -> None:
        """Returns once it is open and takes requests."""
        while slot.lanes is None or slot.closing:
            if slot.opening is None:
                slot.opening = asyncio.create_task(self._open(slot))
            await asyncio.shield(slot.opening)

    async def _open(self, slot: _Standing) -> None:
        try:
            async with self._turn:
                if slot.lanes is not None:
                    slot.closing = False  # another one made room
                    return
                slot.state = "loading"
                await self._make_room(slot)
                logger.info("loading %s", slot.offer.name)
                start = monotonic()
                opened = await asyncio.get_running_loop().run_in_executor(self._worker, slot.offer.open)
                lanes = make_lanes(*opened, self.settings)
                await asyncio.get_running_loop().run_in_executor(self._worker, self._memory.enter, *_engines(lanes))
                self._opened(slot, lanes)
                logger.info("loaded %s in %.1f s", slot.offer.name, monotonic() - start)
        except ApiError:
            raise
        except Exception as error:
            logger.exception("%s could not be loaded", slot.offer.name)
            raise ApiError(503, f"{slot.offer.name} could not be loaded: {error}", code="model_load_failed") from error
        finally:
            slot.opening = None
            slot.state = "loaded" if slot.lanes is not None else "unloaded"

    def _opened(self, slot: _Standing, lanes: Lanes) -> None:
        slot.lanes = self._last = lanes
        slot.state, slot.used = "loaded", monotonic()
        slot.makes = lanes.draw.makes
        slot.num_loads += 1
        slot.names = list(dict.fromkeys([slot.offer.name, *(lane.name for lane in lanes.all), *lanes.loras]))
        slot.num_bytes = sum(weight_bytes(lane.modules) for lane in lanes.all[:1])

    def _fits(self, slot: _Standing, among: Iterable[_Standing]) -> bool:
        """Whether it may be open beside those of `among` that are."""
        others = [one for one in among if one.lanes is not None and one is not slot]
        total = sum(one.num_bytes for one in others) + slot.num_bytes
        return len(others) < self._max_loaded and (self._budget is None or total <= self._budget or not others)

    async def _make_room(self, slot: _Standing) -> None:
        """Closes what was used the longest ago until `slot` fits. Raises `ApiError` where it never does."""
        if self._budget is not None and slot.num_bytes > self._budget:
            text = f"its weights take {show_bytes(slot.num_bytes)}, the memory budget is {show_bytes(self._budget)}"
            raise ApiError(503, f"{slot.offer.name} can't be loaded: {text}", code="model_too_large")
        patience = monotonic() + _PATIENCE_S
        while not self._fits(slot, self._slots):
            open_ones = sorted((one for one in self._slots if one.lanes is not None), key=lambda one: one.used)
            idle = next((one for one in open_ones if not self._is_busy(one)), None)
            if idle is not None:
                await self._close(idle)
                continue
            if monotonic() >= patience:
                open_ones[0].closing = True
            async with self._news:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 1.0)

    def _is_busy(self, slot: _Standing) -> bool:
        return slot.holds > 0 or (slot.lanes is not None and any(self.is_busy(lane) for lane in slot.lanes.all))

    async def _close(self, slot: _Standing) -> None:
        lanes, slot.lanes, slot.closing, slot.state = slot.lanes, None, False, "unloaded"
        assert lanes is not None
        logger.info("unloading %s", slot.offer.name)
        await asyncio.get_running_loop().run_in_executor(self._worker, self._release, lanes)

    def _give_back(self, slot: _Standing) -> None:
        slot.holds -= 1
        slot.used = monotonic()
        self.changed()

    def changed(self) -> None:
        """A request has ended: there may be room."""

        async def tell() -> None:
            async with self._news:
                self._news.notify_all()

        with suppress(RuntimeError):  # no loop runs any more
            self._telling = asyncio.get_running_loop().create_task(tell())

    def close(self) -> None:
        """Closes what is open. No request may be under way."""
        for slot in self._slots:
            if slot.lanes is not None:
                self._release(slot.lanes)
                slot.lanes = None

    def _release(self, lanes: Lanes) -> None:
        engines, _ = _engines(lanes)
        for lane in lanes.all:
            lane.release()
        self._memory.leave(engines)
        engines.clear()  # and with them the weights
        gc.collect()
        empty_cache()

    def _slot_of(self, model: str | None, makes: Makes) -> _Standing:
        found = next((slot for slot in self._slots if model and slot.answers_to(model)), None)
        if found is not None:
            return found
        if not model or model in self.settings.model_alias or self.settings.accept_any_model or not self.has_several:
            # Of one model alone, its own lanes say what is wrong with the name.
            return next((slot for slot in self._slots if slot.makes == makes), self._slots[0])
        text = f"model {model[:80]!r} is not served here; expected {' or '.join(self.names)}, or none"
        raise ApiError(404, text, code="model_not_found", param="model")


def _engines(lanes: Lanes) -> tuple[list[Engine], int]:
    """Those of a model that are in this process, and the bytes of its weights."""
    engines = [engine for lane in lanes.all if isinstance(engine := lane.omni.engine, Engine)]
    return engines, weight_bytes(lanes.draw.modules) if engines else 0


def _never() -> Opened:
    raise AssertionError("a model that is open is not opened again")
