"""What a replica's process and its owner say to each other. Plain data; knows nothing of how it travels."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interlace.request import Output, Progress, Request
from interlace.stages.replicas.counts import Counts

if TYPE_CHECKING:
    from interlace.models.loader import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Open:
    """To a child, first of all: the pickled function that makes its stage; `name` begins its log lines."""

    opener: bytes
    name: str


@dataclass(frozen=True, kw_only=True)
class Submit:
    """To a child: a request for its stage, with what is left of its time."""

    request: Request


@dataclass(frozen=True, kw_only=True)
class Abort:
    """To a child: end a request."""

    request_id: str


@dataclass(frozen=True, kw_only=True)
class Close:
    """To a child: close the stage, which ends what is pending, and then end."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """From a child: its stage is open; `facts` are what it describes itself as, `model` is what it draws with."""

    facts: Mapping[str, Any]
    model: "LoadedModel | None" = None  # without its weights


@dataclass(frozen=True, kw_only=True)
class Refused:
    """From a child: its stage can't be opened, which another try won't change."""

    error: Exception


@dataclass(frozen=True, kw_only=True)
class Told:
    """From a child: a request's progress."""

    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Done:
    """From a child: a request has ended."""

    output: Output


@dataclass(frozen=True, kw_only=True)
class Counted:
    """From a child, now and then: its stage's counts, and the requests that share its engine's forward."""

    counts: Counts
    forwarding: tuple[str, ...] = ()
    process: int = 0  # whose counts they are, where several answer for one replica


@dataclass(frozen=True, kw_only=True)
class Logged:
    """From a child: a line of its log."""

    record: logging.LogRecord
