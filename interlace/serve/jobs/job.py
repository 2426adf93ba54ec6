"""One accepted request and where it stands. One for n pictures has n parts, which the engine runs side by side."""

import asyncio
import secrets
from dataclasses import dataclass, field
from time import time
from typing import Any, Literal

from interlace.request import Metrics
from interlace.serve.http.errors import ApiError
from interlace.serve.orders.order import Order

State = Literal["queued", "in_progress", "completed", "failed"]
EventKind = Literal["queued", "started", "text", "step", "preview", "image", "done", "error"]
_ENDED = ("completed", "failed")


@dataclass(frozen=True)
class File:
    """An encoded result."""

    data: bytes
    media_type: str


@dataclass(eq=False)
class Part:
    """One picture (or video) of a job: one request of the engine."""

    id: str
    index: int
    seed: int
    num_steps: int
    name: str = field(default_factory=lambda: secrets.token_urlsafe(24))  # of its file's URL: not to be guessed
    state: State = "queued"
    step: int = 0
    rows: int = 0  # of the last forward that it took part in
    replica: int | None = None  # where it runs or ran, of several
    preview: Any = None  # PIL image, small
    num_previews: int = 0
    text: str | None = None  # what a language model's stage wrote
    metrics: Metrics | None = None
    size: tuple[int, int] | None = None  # width, height in pixels
    file: File | None = None
    stills: dict[str, File] = field(default_factory=dict)  # of a film: its thumbnail and its sprite sheet


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; `part` is what it happened to."""

    kind: EventKind
    part: Part | None = None
    preview: Any = None
    step: int = 0
    text: str | None = None  # what is new
    index: int = 0  # of a preview, among its part's


@dataclass(eq=False)
class RequestJob:
    """Lives on the event loop's thread. `client` is who asked; only they see it where there are keys."""

    id: str
    kind: str
    order: Order
    client: str
    parts: list[Part]
    background: bool = False  # asked for with "async": the result waits here
    created: float = field(default_factory=time)  # Unix seconds, as the two below
    completed: float | None = None
    expires: float | None = None
    state: State = "queued"
    error: ApiError | None = None
    collected: bool = False
    watchers: list["asyncio.Queue[Event]"] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in _ENDED

    @property
    def progress(self) -> int:
        """Per cent of all steps of all parts."""
        if self.state == "completed":
            return 100
        total = sum(part.num_steps for part in self.parts) or 1
        return min(99, sum(part.step for part in self.parts) * 100 // total)

    @property
    def num_bytes(self) -> int:
        """Of the results that are kept."""
        files = (file for part in self.parts for file in (part.file, *part.stills.values()) if file)
        return sum(len(file.data) for file in files)

    def tell(self, event: Event) -> None:
        """Hand an event to everyone who watches."""
        for watcher in self.watchers:
            watcher.put_nowait(event)

    def watch(self) -> "asyncio.Queue[Event]":
        """Events from now on; remove the queue from `watchers` when done."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self.watchers.append(queue)
        return queue

    def describe(self, position: int | None = None) -> dict[str, Any]:
        """The job in the shape of OpenAI's videos API, and more."""
        order = self.order
        width, height = order.size
        return {
            "id": self.id,
            "object": "video" if self.kind == "video" else "request",
            "kind": self.kind,
            "status": self.state,
            "progress": self.progress,
            "created_at": int(self.created),
            "completed_at": int(self.completed) if self.completed else None,
            "expires_at": int(self.expires) if self.expires else None,
            "model": order.lane.name,
            "prompt": order.prompt,
            "size": f"{width}x{height}" if width and height else "auto",
            "width": width,
            "height": height,
            "seconds": order.seconds,
            "remixed_from_video_id": order.facts.get("remix_of"),
            "error": self.error.body["error"] if self.error else None,
            "async": self.background,
            "position": position,
            "step": sum(part.step for part in self.parts),
            "num_steps": sum(part.num_steps for part in self.parts),
            "rows": max(part.rows for part in self.parts),
            "user": order.user,
            **({"warnings": list(order.warnings)} if order.warnings else {}),
            "parts": [_part(part) for part in self.parts],
        }


def _part(part: Part) -> dict[str, Any]:
    facts = {"index": part.index, "id": part.id, "seed": part.seed, "status": part.state, "rows": part.rows}
    where = {} if part.replica is None else {"replica": part.replica}
    return {**facts, **where, "step": part.step, "num_steps": part.num_steps, "timings": timings(part.metrics)}


def timings(metrics: Metrics | None) -> dict[str, float] | None:
    """Where a request's time went, in seconds, rounded to a tenth of a millisecond; and how it shared forwards."""
    if metrics is None:
        return None
    names = ("queue_s", "encode_s", "denoise_s", "decode_s", "total_s", "num_steps", "num_forwards", "mean_rows")
    return {name: round(getattr(metrics, name), 4) for name in names}
