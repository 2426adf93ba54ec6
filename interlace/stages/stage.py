"""What a pipeline needs of a stage. Knows none of those that there are: `opening` has their table."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol

from interlace.request import Output, Progress, Request

Listener = Callable[[Progress], None]


class Stage(Protocol):
    """Takes requests and gives outputs, many at once, batching by itself."""

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Output]":
        """Queue one request. Never raises for a bad one: what went wrong is in `Output.error`.

        `listener` hears of every event before the future is done: `started`, steps, previews or texts.
        """

    def abort(self, request_id: str) -> bool:
        """Its future ends soon. False when there is no such request."""

    def stats(self) -> Mapping[str, object]:
        """Counts since the start, as plain data. Never waits for the stage."""

    def describe(self) -> dict[str, object]:
        """What it runs, and how."""

    def close(self) -> None:
        """Stop; pending requests end with an error. May be called twice."""
