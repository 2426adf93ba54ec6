"""The line of requests that wait: the policy's order, kept while predictions change, at a few looks a forward."""

from collections import Counter

import pytest

from interlace.config import Policy
from interlace.engine.policy.line import Line, Waiting


def request(number: int, *, remaining: float = 0.0, deadline: float | None = None, priority: int = 0) -> Waiting:
    return Waiting(str(number), None, 0.0, number, priority, remaining, deadline)


def taken(line: Line, count: int, now: float = 0.0) -> list[str]:
    return [one.request_id for one in line.take(count, now)]


def test_the_first_leave_the_line_and_come_back_to_their_places() -> None:
    line = Line()
    line.add([request(3), request(1), request(2, priority=1)])
    heads = line.take(2, 0.0)
    assert [one.request_id for one in heads] == ["2", "1"]
    line.put_back(heads, 0.0)
    line.remove("1")
    assert taken(line, 5) == ["2", "3"]
    assert len(line) == 0


def test_a_prediction_that_changes_moves_a_request() -> None:
    seconds = {"1": 1.0, "2": 2.0, "3": 3.0}
    line = Line("sjf", seconds.__getitem__)
    line.add(request(int(name), remaining=value) for name, value in seconds.items())
    seconds |= {"1": 9.0, "3": 0.5}
    assert taken(line, 1) == ["2"], "the first in line was looked at again, and is not the first any more"
    line.look(0.0)
    assert taken(line, 2) == ["3", "1"]


def test_a_deadline_that_can_no_longer_be_met_goes_last() -> None:
    line = Line("deadline", {"1": 5.0, "2": 1.0, "3": 1.0}.__getitem__)
    line.add([request(1, remaining=5.0, deadline=10.0), request(2, remaining=1.0, deadline=20.0), request(3)], 0.0)
    assert taken(line, 1, 6.0) == ["2"]
    assert taken(line, 2, 6.0) == ["3", "1"]


def test_what_is_too_late_or_hopeless_is_named() -> None:
    line = Line("fifo", lambda name: 4.0)
    line.add([request(1, deadline=1.0), request(2, deadline=5.0), request(3, deadline=9.0), request(4)])
    line.look(2.0)
    assert [one.request_id for one in line.late(2.0)] == ["1"]
    line.remove("1")
    assert [one.request_id for one in line.hopeless(2.0)] == ["2"]


@pytest.mark.parametrize("policy", ["fifo", "sjf", "deadline"])
def test_looks_grow_with_the_requests_and_not_with_their_square(policy: Policy) -> None:
    looks = Counter[str]()

    def predict(name: str) -> float:
        looks[name] += 1
        return 1.0 + looks.total() * 1e-6  # a forecast that goes on learning

    number = 3000
    line = Line(policy, predict)
    line.add(request(i, remaining=1.0, deadline=1e9) for i in range(number))
    forwards = 0
    while len(line):
        line.look(float(forwards))
        line.take(1, float(forwards))
        forwards += 1
        assert max(map(len, (line._first, line._late, line._turns))) <= 2 * len(line) + 100, "nothing gathers"
    assert forwards == number
    assert looks.total() <= 40 * number


def test_a_prediction_that_is_no_number_keeps_nobody_waiting() -> None:
    line = Line("sjf", lambda name: float("nan"))
    line.add([request(1), request(2)])
    assert sorted(taken(line, 2)) == ["1", "2"]
