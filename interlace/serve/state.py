"""What routes find in their application: typed, in one place."""

from dataclasses import dataclass, field
from time import time

from starlette.requests import Request

from interlace.serve.auth import Keys
from interlace.serve.lanes import Lanes
from interlace.serve.metrics import ServerMetrics
from interlace.serve.registry import Registry
from interlace.serve.settings import ServeSettings


@dataclass
class ServerState:
    """One server's parts. `warm` once a first picture was made."""

    settings: ServeSettings
    lanes: Lanes
    registry: Registry
    metrics: ServerMetrics
    keys: Keys
    warm: bool = False
    broken: str | None = None  # why the first picture could not be made
    started: float = field(default_factory=time)  # Unix seconds


def state_of(request: Request) -> ServerState:
    """All of it."""
    state: ServerState = request.app.state.server
    return state


def registry_of(request: Request) -> Registry:
    """The requests."""
    return state_of(request).registry


def lanes_of(request: Request) -> Lanes:
    """The models."""
    return state_of(request).lanes


def viewer_of(request: Request) -> str | None:
    """Whose requests are shown: with keys only one's own, without all."""
    return request.state.client if state_of(request).keys else None
