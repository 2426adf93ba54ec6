"""Deadlines: called in time, and nothing is kept of those that nobody needs any more."""

import threading

from interlace.stages.flow.deadlines import Deadlines


def test_what_is_due_is_called_in_order_and_what_was_forgotten_is_not() -> None:
    deadlines, called, done, held = Deadlines(), list[str](), threading.Event(), threading.Event()
    deadlines.add(0.0, lambda: held.wait(120))  # nothing is called before all is said
    forget = deadlines.add(0.01, lambda: called.append("forgotten"))
    forget()
    deadlines.add(0.3, done.set)
    deadlines.add(0.02, lambda: called.append("first"))
    held.set()
    assert done.wait(120)
    assert called == ["first"]
    deadlines.close()


def test_thousands_of_requests_that_are_done_long_before_their_timeout_leave_nothing() -> None:
    deadlines = Deadlines()
    for _ in range(3000):
        deadlines.add(3600.0, lambda: None)()
        assert len(deadlines._heap) < 200
    assert not deadlines._calls
    deadlines.close()
