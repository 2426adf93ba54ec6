"""Requests that wait: each is looked at a few times, however many wait with it; aborts and timeouts end it there."""

from contextlib import ExitStack
from time import monotonic
from typing import Any

import pytest
import torch
from torch import nn

from interlace import Engine
from interlace.engine.tickets import lobby
from interlace.engine.tickets.prospects import Prospects
from interlace.errors import AbortedError, DeadlineExceededError

WAIT = 120.0


def engine_of(**options: Any) -> Engine:
    layer = nn.Linear(2, 2)
    return Engine.over(lambda steps=1: [layer(torch.ones(1, 2)) for _ in range(steps)][-1], {"layer": layer}, **options)


@pytest.mark.parametrize("policy", ["fifo", "sjf", "deadline"])
def test_hundreds_of_requests_are_looked_at_a_few_times_each(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [0]
    left = Prospects.left

    def counted(self: Prospects, *args: Any) -> float:
        looks[0] += 1
        return left(self, *args)

    monkeypatch.setattr(Prospects, "left", counted)
    number = 600
    with engine_of(max_num_seqs=2, policy=policy) as engine:
        with engine.paused():  # all of them wait before the first runs
            futures = [engine.submit({"steps": 1}, timeout_s=3600) for _ in range(number)]
        assert all(future.result(WAIT) is not None for future in futures)
        forwards = engine.statistics().forwards["layer"]
    assert forwards >= number // 2
    assert looks[0] <= 40 * number, f"{looks[0]} looks; {number} requests are {number**2 // 2} pairs"


def test_waiting_requests_are_aborted_and_late_in_their_place() -> None:
    with engine_of(max_num_seqs=1) as engine:
        with engine.paused():
            first = engine.submit({"steps": 200})
            aborted = engine.submit({}, request_id="aborted")
            late = engine.submit({}, timeout_s=0.0)
            last = engine.submit({})
            assert engine.abort("aborted")
        assert isinstance(aborted.exception(WAIT), AbortedError)
        assert isinstance(late.exception(WAIT), DeadlineExceededError)
        assert aborted.ticket is not None
        assert aborted.ticket.metrics.num_forwards == 0
        assert [future.exception(WAIT) for future in (first, last)] == [None, None]
        assert engine.live() == []


def test_what_is_gathered_starts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_GATHER_S", WAIT)
    with engine_of(max_num_seqs=8, max_batch_rows=None, verify_fusion="off") as engine:
        with engine.gathering():
            futures = [engine.submit({"steps": 3}) for _ in range(5)]
            assert not any(future.done() for future in futures)
        assert all(future.result(WAIT) is not None for future in futures)
        forwards = engine.statistics().forwards["layer"]
    assert forwards == 3


def test_as_many_as_there_is_room_for_wait_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_GATHER_S", 1000.0)
    with engine_of(max_num_seqs=2) as engine, engine.gathering():
        futures = [engine.submit({}) for _ in range(2)]
        assert all(future.result(WAIT) is not None for future in futures)


def test_who_gathers_for_long_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_GATHER_S", 0.05)
    with engine_of(max_num_seqs=8) as engine, engine.gathering():
        assert engine.submit({}).result(WAIT) is not None


def test_others_that_gather_meanwhile_make_it_no_longer() -> None:
    with engine_of(max_num_seqs=8) as engine:
        began = monotonic()
        with ExitStack() as last:
            waits = engine.submit({})
            while not waits.done():
                assert monotonic() - began < WAIT
                following = ExitStack()
                following.enter_context(engine.gathering())
                last.close()
                last.enter_context(following)
