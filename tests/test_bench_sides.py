"""Sides of a comparison: processes of their own, asked in turn, whose errors and ends are told."""

import os
from collections.abc import Callable
from functools import partial

import pytest

from interlace.bench import sides
from interlace.errors import InvalidRequestError


def counting(start: int) -> Callable[[int], tuple[int, int]]:
    turns = iter(range(start, start + 100))
    return lambda more: (next(turns) + more, os.getpid())


def refusing() -> Callable[[], None]:
    raise InvalidRequestError("workload is 'heavy'", "workload")


def failing() -> Callable[[], None]:
    class Odd(Exception):
        """Can't be pickled."""

    def turn() -> None:
        raise Odd("no")

    return turn


def dying() -> Callable[[], None]:
    return lambda: os._exit(3)


def test_each_side_has_a_process_and_keeps_it_from_turn_to_turn() -> None:
    with sides.opened({"a": partial(counting, 0), "b": partial(counting, 10)}) as ways:
        told = sides.in_turn(ways, 2, 1000)
    assert [value for value, _ in told["a"]] == [1000, 1001]
    assert [value for value, _ in told["b"]] == [1010, 1011]
    assert len({os.getpid(), *(pid for several in told.values() for _, pid in several)}) == 3


def test_what_a_side_raises_is_raised_here() -> None:
    with pytest.raises(InvalidRequestError, match="heavy"), sides.opened({"a": refusing}):
        pass
    with sides.opened({"a": failing}) as ways, pytest.raises(RuntimeError, match="Odd: no"):
        ways["a"]()
    with sides.opened({"a": dying}) as ways, pytest.raises(RuntimeError, match="exit code 3"):
        ways["a"]()


def test_ratios_are_of_turns_and_not_of_medians() -> None:
    assert sides.paired_ratio([1.0, 8.0, 3.0], than=[1.0, 4.0, 1.0]) == 2.0
