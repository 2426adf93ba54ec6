"""Streams, events and pinned copies in the order in which they have to be, by a stand-in that writes them down."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interlace.engine import accelerator
from interlace.engine.device.host import Flag
from interlace.engine.device.streams import Stopwatch, StreamPair, has_streams

GPU = torch.device("cuda", 0)  # never touched


class RecordedStream:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: "RecordedStream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class RecordedEvent:
    def __init__(self, log: list[str], **_: object) -> None:
        self.log, self.done = log, False

    def record(self, stream: RecordedStream) -> None:
        self.log.append(f"event on {stream.name}")

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.log.append("the host waits")
        self.done = True

    def elapsed_time(self, other: "RecordedEvent") -> float:
        return 250.0


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written: list[str] = []
    main = RecordedStream(written, "main")
    now = [main]

    @contextlib.contextmanager
    def stream(entered: RecordedStream) -> Iterator[None]:
        now.append(entered)
        written.append(f"on {entered.name}")
        yield
        now.pop()
        written.append(f"off {entered.name}")

    module = SimpleNamespace(
        Stream=lambda device: RecordedStream(written, "aside"),
        Event=lambda **how: RecordedEvent(written, **how),
        current_stream=lambda device: now[-1],
        stream=stream,
    )
    monkeypatch.setattr(accelerator, "module_of", lambda device: module if device.type == "cuda" else None)
    return written


def test_a_window_begins_behind_the_main_stream_and_the_main_stream_goes_on_behind_it(log: list[str]) -> None:
    pair = StreamPair(GPU)
    with pair.queued_aside():
        log.append("decode")
    log.append("denoise")
    with pair.continued():
        log.append("picture")
    opened = ["aside waits for main", "on aside", "decode", "off aside"]
    assert log == [*opened, "denoise", "on aside", "picture", "off aside", "main waits for aside"]


def test_a_window_is_closed_also_when_what_goes_on_in_it_fails(log: list[str]) -> None:
    with pytest.raises(ValueError, match="own code"), StreamPair(GPU).continued():
        raise ValueError("own code")
    assert log[-1] == "main waits for aside"


def test_a_forward_is_timed_between_events_and_nobody_waits(log: list[str]) -> None:
    watch: Any = Stopwatch(GPU)
    log.append("forward")
    watch.stop()
    assert watch.seconds() is None
    watch._ended.done = True
    assert watch.seconds() == 0.25
    assert log == ["event on main", "forward", "event on main"]


def test_what_is_to_be_known_of_a_device_is_waited_for_only_when_asked(log: list[str]) -> None:
    flag = Flag(behind=[GPU])
    assert flag.waits
    assert not flag.known()
    assert flag.holds()
    assert log == ["event on main", "the host waits"]


def test_on_a_cpu_there_is_nothing_to_wait_for() -> None:
    assert not has_streams(torch.device("cpu"))
    assert not Flag([torch.tensor(True), torch.tensor(False)]).waits
    assert not Flag([torch.tensor(True), torch.tensor(False)]).holds()
