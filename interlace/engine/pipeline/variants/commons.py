"""Modules that engines, their requests and their owner's threads share: who may change or use them, and when.

An engine's step, an owner's turn and a stock call that changes modules exclude each other. Stock forwards of other
threads run beside an engine, but never while a request's variant is on. Knows nothing of what a request is.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from interlace.engine.pipeline.variants.recorder import IGNORE, Change, Recorder, Within, current, recording
from interlace.engine.pipeline.variants.variant import NONE, Variant, Wardrobe

_GRACE_S = 0.005  # after an owner's write: the next one, of the hundreds that make one change, comes at once
_MAX_GRACE_S = 0.5


class Tenant(Protocol):
    """An engine, as the commons see it."""

    def keep(self, changes: list[Change]) -> None:
        """The owner has changed something: running requests keep what was there before."""

    @property
    def busy(self) -> bool:
        """Whether requests are running."""
        ...

    wanting: bool
    """Whether a request waits for stock calls to end."""

    @property
    def exclusive(self) -> str:
        """Why requests run one at a time; empty when they needn't."""
        ...


class Commons:
    """One for all engines that have a module in common."""

    def __init__(self) -> None:
        self.wardrobe = Wardrobe()
        self.tenants: list[Tenant] = []
        self.now = self  # the commons that have taken these over
        self._turn = threading.RLock()
        self._state = threading.Condition()
        self._waiting = 0  # threads that want their turn
        self._outside = 0  # stock forwards that run in other threads
        self._dressed = False
        self._written = 0.0  # when an owner last wrote
        self.reserved = 0  # stock calls that need the modules with no request half way: none starts alone meanwhile
        self.within = Within(self.dress)  # an engine's forward that changes modules for its time (a LoRA scale)
        self._owed = 0.0  # seconds of steps, for those that stock calls kept the engines waiting

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """An engine's step: nobody else changes the modules in it."""
        self._let_others_go_first()
        with self._turn, recording(IGNORE):  # what the engine sets for a forward is nobody's change
            start = time.monotonic()
            try:
                yield
            finally:
                self._owed -= time.monotonic() - start
                if self._waiting:
                    self.rest()

    def dress(self) -> None:
        """Before modules are changed for one request: stock forwards that run now end first, later ones wait."""
        if not self._dressed:
            with self._state:
                self._state.wait_for(lambda: not self._outside)
                self._dressed = True

    def wear(self, variant: Variant) -> None:
        """Within a step: the modules as a request has them."""
        if variant:
            self.dress()
        self.wardrobe.wear(variant)

    def join(self, other: "Commons") -> None:
        """Take over the engines of other commons, between two steps of theirs."""
        with self._claimed(), other._claimed():
            self.tenants += other.tenants
            other.now = self

    def reset(self) -> None:
        """In a forked child: whoever held anything stayed behind."""
        self.tenants = []
        self._turn, self._state = threading.RLock(), threading.Condition()
        self._waiting = self._outside = 0
        self.rest()

    @contextlib.contextmanager
    def turn(self) -> Iterator[Recorder]:
        """An owner's change: between two steps, on its own state; requests that run keep what they had."""
        recorder = current()
        if recorder is not None:
            yield recorder
            return
        with self._claimed():
            recorder = self._recorder(lambda: None)
            try:
                with recording(recorder):
                    yield recorder
            finally:
                self._publish(recorder)

    @property
    def taken(self) -> bool:
        """Whether it is this thread's turn, or step."""
        return bool(self._turn._is_owned())  # type: ignore[attr-defined]

    @property
    def is_owners(self) -> bool:
        """Whether it is this thread's turn, or step, and the modules are as their owner has them."""
        recorder = current()
        return self.taken and not self.wardrobe.worn and (recorder is None or not recorder.private)

    @contextlib.contextmanager
    def stock_call(self) -> Iterator[None]:
        """A stock call in another thread: from its first write on, if there is one, it has the modules to itself."""
        if current() is not None:
            yield
            return
        if any(tenant.exclusive for tenant in self.tenants):
            with self._alone():
                yield
            return
        with contextlib.ExitStack() as stack:
            start = 0.0

            def claim() -> None:
                nonlocal start
                self._let_engines_catch_up()
                stack.enter_context(self._claimed())
                start = time.monotonic()

            recorder = self._recorder(claim)
            try:
                with recording(recorder):
                    yield
            finally:
                if recorder:
                    self._publish(recorder)
                    self._owed = time.monotonic() - start

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """A stock forward in another thread: it finds its owner's state, and has the modules to itself from the moment
        that it changes them (a LoRA scale) to its end."""
        if self.taken:
            with recording(IGNORE):
                yield
            return
        with self._wanting(), self._state:
            self._state.wait_for(lambda: not self._dressed)
            self._outside += 1
        claimed = 0.0
        with contextlib.ExitStack() as stack:

            def claim() -> None:
                nonlocal claimed
                if not claimed:
                    self._left()
                    self._let_engines_catch_up()
                    stack.enter_context(self._claimed())
                    claimed = time.monotonic()

            try:
                with recording(Within(claim)):
                    yield
            finally:
                if claimed:
                    self._owed = time.monotonic() - claimed
                else:
                    self._left()

    def _left(self) -> None:
        with self._state:
            self._outside -= 1
            self._state.notify_all()

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[None]:
        with self._wanting():
            self._turn.acquire()
        try:
            self.rest()
            yield
        finally:
            self._written = time.monotonic()
            self._turn.release()

    @contextlib.contextmanager
    def _wanting(self) -> Iterator[None]:
        with self._state:
            self._waiting += 1
        try:
            yield
        finally:
            with self._state:
                self._waiting -= 1

    def _recorder(self, first: Callable[[], object]) -> Recorder:
        return Recorder(first, keeps_weights=any(tenant.busy for tenant in self.tenants))

    def _publish(self, recorder: Recorder) -> None:
        busy = [tenant for tenant in self.tenants if tenant.busy]
        if busy and (changes := recorder.changes()):
            for tenant in busy:
                tenant.keep(changes)

    def rest(self) -> None:
        """The modules as their owner has them, for whoever is next."""
        self.wardrobe.wear(NONE)
        if self._dressed:
            with self._state:
                self._dressed = False
                self._state.notify_all()

    def _let_others_go_first(self) -> None:
        """A lock alone would let an engine that is always busy keep everybody out."""
        deadline = time.monotonic() + _MAX_GRACE_S
        while self._owed <= 0 and (self._waiting or time.monotonic() - self._written < _GRACE_S):
            if time.monotonic() > deadline:
                return
            time.sleep(0.0002)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Modules that keep state: no request may be half way through them."""
        deadline = time.monotonic() + _MAX_GRACE_S
        while any(tenant.wanting for tenant in self.tenants) and time.monotonic() < deadline:
            time.sleep(_GRACE_S)  # stock calls one after the other would keep every request waiting
        with self._state:
            self.reserved += 1
        try:
            while True:
                with self._claimed():
                    if not any(tenant.busy for tenant in self.tenants):
                        yield
                        return
                time.sleep(_GRACE_S)
        finally:
            with self._state:
                self.reserved -= 1

    def _let_engines_catch_up(self) -> None:
        """Stock calls one after the other would keep requests waiting: engines get as much time as the last took."""
        deadline = time.monotonic() + 2 * self._owed + _MAX_GRACE_S
        while self._owed > 0 and any(tenant.busy for tenant in self.tenants) and time.monotonic() < deadline:
            time.sleep(0.0005)
