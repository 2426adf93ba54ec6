"""The engine's thread: the loop's steps, one after the other, with messages from other threads in between."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator

import torch

from interlace.engine.loop import EngineCore
from interlace.engine.threads import release_team
from interlace.errors import EngineClosedError

logger = logging.getLogger("interlace.engine")

Message = Callable[[], object]
_KEPT_S = 0.05  # how long a thread without requests keeps its team


class Runner:
    """Runs `core` from now on. `died(error)` is called in the thread when it ends by an error."""

    def __init__(self, core: EngineCore, died: Callable[[BaseException], None]) -> None:
        self._core, self._died = core, died
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        core.post = self._inbox.put
        self.thread = threading.Thread(target=self._main, name="interlace-engine", daemon=True)
        self.thread.start()

    def post(self, message: Message) -> None:
        """`message()` is called in the thread, before the next step."""
        self._inbox.put(message)

    def stop(self) -> None:
        """The thread ends after the messages so far; requests that are left get `EngineClosedError`."""
        self._inbox.put(None)

    @contextlib.contextmanager
    def paused(self, post: Callable[[Message], None], check: Callable[[], None]) -> Iterator[None]:
        """Within, no step runs, and it is the caller's turn. `post` hands over a message or raises; `check` raises when
        the thread has ended.
        """
        if threading.current_thread() is self.thread:
            yield
            return
        if self._core.tenancy.commons.now.taken:  # then the engine's thread is kept waiting already
            check()
            yield
            return
        reached, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            reached.set()
            go_on.wait()

        post(wait)
        try:
            while not reached.wait(0.5):
                check()
            with self._core.tenancy.commons.now.turn():
                yield
        finally:
            go_on.set()

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Within, requests come that are to start together."""
        self.post(lambda: self._core.lobby.gather(1))
        try:
            yield
        finally:
            self.post(lambda: self._core.lobby.gather(-1))

    def _main(self) -> None:
        try:
            with torch.no_grad():
                while self._turn():
                    pass
            self._core.close(EngineClosedError("the engine was closed before this request was done"))
        except BaseException as error:
            logger.exception("the engine's thread ended")
            self._died(error)

    def _turn(self) -> bool:
        """One forward, after the messages that came in; False when the thread is to stop."""
        wait = self._core.step()
        try:
            while True:
                message = self._next(wait)
                if message is None:
                    return False
                message()
                wait = 0.0
        except queue.Empty:
            return True

    def _next(self, wait: float | None) -> Message | None:
        """The next message. Where none comes for a while, others may have the cores to themselves."""
        if wait is None:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=_KEPT_S)
            release_team()
        return self._inbox.get(block=wait != 0, timeout=wait or None)
