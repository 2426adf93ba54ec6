"""How a bulk run shows where it stands: a bar on a terminal, plain lines elsewhere; always on stderr."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_SECONDS_BETWEEN_LINES = 10.0
_MAX_MESSAGES = 20  # failures shown one by one; all of them are in failures.jsonl


@dataclass
class Tally:
    """Counts of images, or of what else `what` says. `total` is what this run has to do."""

    total: int
    what: str = "images"
    done: int = 0
    failed: int = 0
    retried: int = 0  # of those done, came at a second or later attempt
    failed_by_kind: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def images_per_s(self) -> float:
        return self.done / self.seconds if self.seconds > 0 else 0.0

    def restart_clock(self) -> None:
        """The time before now was not spent on images."""
        self.started = time.perf_counter()

    def eta(self) -> str:
        ended = self.done + self.failed
        if ended == 0:
            return "-:--:--"
        left = round(self.seconds / ended * (self.total - ended))
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"

    def text(self, mean_rows: float | None) -> str:
        rows = "" if mean_rows is None else f", {mean_rows:.1f} rows a forward"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.images_per_s:.2f} {self.what}/s, {self.eta()} left{rows}{failed}"


class View(Protocol):
    """Shows how a run goes. All of it may be called from many threads."""

    def began(self, name: str) -> None:
        """An image was handed to the model."""

    def ended(self, name: str) -> None:
        """It is stored, or has failed; the tally says so already."""

    def message(self, text: str) -> None: ...

    def stop(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class ProgressView:
    """Shows a tally. `update` and `message` may be called from many threads."""

    def __init__(self, tally: Tally, mean_rows: Callable[[], float | None], console: Console | None = None) -> None:
        self._tally, self._mean_rows = tally, mean_rows
        self._console = console or Console(file=sys.stderr)
        self._lock = threading.Lock()
        self._messages = 0
        self._last_line = time.perf_counter()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(tally.what, total=tally.total, text="")

    def began(self, name: str) -> None:
        pass

    def ended(self, name: str) -> None:
        self.update()

    def update(self) -> None:
        text = self._tally.text(self._mean_rows())
        ended = self._tally.done + self._tally.failed
        with self._lock:
            if self._bar is not None:
                self._bar.update(self._task, completed=ended, text=text)
            elif time.perf_counter() - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._last_line = time.perf_counter()
                self.say(f"{ended}/{self._tally.total} {self._tally.what}, {text}")

    def message(self, text: str) -> None:
        """One line for the user, beside the bar; after many, silence."""
        with self._lock:
            self._messages += 1
            if self._messages <= _MAX_MESSAGES:
                self.say(text)
            elif self._messages == _MAX_MESSAGES + 1:
                self.say("further messages are left out; failures.jsonl lists every failure")

    def say(self, text: str) -> None:
        """One line, however many there were."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Gives the terminal back; safe to call twice."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
