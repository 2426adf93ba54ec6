"""Several engines of a process within one memory budget: all weights count for each, one forward runs at a time."""

import threading
from collections.abc import Callable
from time import sleep
from typing import Any

import pytest

from interlace import Engine
from interlace.engine.memory.footprint import weight_bytes
from interlace.engine.memory.sharing import SharedBudget
from interlace.engine.pipeline.view import modules_of
from tests.tiny import tiny_flux

_BUDGET = 64 << 20


def requests(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"a circle {i}", "height": 32, "width": 32, "num_inference_steps": 3, "max_sequence_length": 16}
            for i in range(number)]  # fmt: skip


def left(engine: Engine) -> int:
    memory = engine.statistics().memory
    assert memory is not None
    assert memory["budget_bytes"] is not None
    return memory["budget_bytes"]


def test_weights_of_all_count_for_each_until_they_are_gone() -> None:
    with Engine(tiny_flux(), memory_budget=_BUDGET) as one, Engine(tiny_flux(), memory_budget=_BUDGET) as other:
        size = weight_bytes(modules_of(one.pipeline).values())
        alone = left(one)
        assert alone == _BUDGET - size
        shared = SharedBudget()
        shared.enter([one], size)
        assert left(one) == alone
        shared.enter([other], size)
        assert left(one) == left(other) == _BUDGET - 2 * size
        other.close()
        shared.leave([other])
        assert left(one) == alone
        assert not isinstance(one.map(requests(1))[0], BaseException)


def test_forwards_of_engines_with_one_budget_never_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock, met = 0, 0, threading.Lock(), threading.Event()

    def counted(run: Callable[..., Any]) -> Callable[..., Any]:
        def within(*given: Any) -> Any:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
                if most == 2:
                    met.set()
            try:
                met.wait(120)  # at first, for a forward of the other engine
                sleep(0.005)  # so that two at a time would meet
                return run(*given)
            finally:
                with lock:
                    running -= 1

        return within

    with Engine(tiny_flux(), memory_budget=_BUDGET) as one, Engine(tiny_flux(), memory_budget=_BUDGET) as other:
        for engine in (one, other):
            monkeypatch.setattr(engine._core.executor, "run", counted(engine._core.executor.run))
        together(one, other)
        assert most == 2  # without a shared budget they meet
        shared, most = SharedBudget(), 0
        shared.enter([one], 1)
        shared.enter([other], 1)
        together(one, other)
        assert most == 1


def together(*engines: Engine) -> None:
    futures = [engine.submit(request) for engine in engines for request in requests(4)]
    for future in futures:
        future.result(120)
