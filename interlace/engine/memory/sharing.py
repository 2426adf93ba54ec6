"""One memory budget for all engines of a process: the weights of all count for each, and their forwards run in turn."""

import threading
from collections.abc import Iterable, Sequence

from interlace.engine.accelerator import counts_memory
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.outcome import Outcome
from interlace.engine.engine import Engine
from interlace.engine.pipeline.ambient import Ambient


class SharedBudget:
    """Engines that have one budget between them. What they take at most is all weights and one of their forwards.

    Without it each engine counts its own weights alone, and gives what is left of the whole budget to its forwards.
    """

    def __init__(self) -> None:
        self._turn, self._weights = threading.Lock(), dict[Engine, int]()

    def enter(self, engines: Iterable[Engine], num_bytes: int) -> None:
        """`engines` over one set of weights of `num_bytes` have been opened. Waits for the forwards of the others."""
        new = list(engines)
        there = self._changed(num_bytes)
        for engine in new:
            if not counts_memory(engine.pipeline.device):  # else what others had allocated was counted at its opening
                _change(engine, there)
            _take_turns(engine, self._turn)
        self._weights |= {engine: num_bytes if place == 0 else 0 for place, engine in enumerate(new)}

    def leave(self, engines: Iterable[Engine]) -> None:
        """They have been closed."""
        self._changed(-sum(self._weights.pop(engine, 0) for engine in engines))

    def _changed(self, num_bytes: int) -> int:
        """Tells all that are known; the bytes of their own weights."""
        for engine in self._weights:
            _change(engine, num_bytes)
        return sum(self._weights.values())


def _change(engine: Engine, num_bytes: int) -> None:
    if num_bytes and engine.is_open:
        with engine.paused():
            engine.weights_changed(num_bytes)


def _take_turns(engine: Engine, turn: threading.Lock) -> None:
    """From now on its forwards wait for those of the others. An engine without a limit need not."""
    executor = engine._core.executor
    if engine._core.memory.budget is None:
        return
    run = executor.run

    def in_turn(calls: Sequence[ModuleCall], ambients: Sequence[Ambient]) -> list[Outcome]:
        with turn:
            return run(calls, ambients)

    executor.run = in_turn  # type: ignore[method-assign]
