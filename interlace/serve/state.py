"""What routes find in their application: typed, in one place."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import time

from starlette.requests import Request

from interlace.models.films.lengths import Makes
from interlace.serve.http.auth import Keys
from interlace.serve.jobs.models import Lanes
from interlace.serve.jobs.registry import Registry
from interlace.serve.jobs.repository import ModelRepository
from interlace.serve.metrics import ServerMetrics
from interlace.serve.settings import ServeSettings


@dataclass
class ServerState:
    """One server's parts. `warm` once a first picture was made."""

    settings: ServeSettings
    models: ModelRepository
    registry: Registry
    metrics: ServerMetrics
    keys: Keys
    warm: bool = False
    chosen: dict[str, str] = field(default_factory=dict)  # models, by the clients that chose one for all requests
    broken: str | None = None  # why the first picture could not be made
    started: float = field(default_factory=time)  # Unix seconds

    @property
    def lanes(self) -> Lanes:
        """Of the model that is shown where none is named."""
        return self.models.current


def state_of(request: Request) -> ServerState:
    """All of it."""
    state: ServerState = request.app.state.server
    return state


def registry_of(request: Request) -> Registry:
    """The requests."""
    return state_of(request).registry


def models_of(request: Request) -> ModelRepository:
    """What may be asked for."""
    return state_of(request).models


def lanes_of(request: Request) -> Lanes:
    """The model that is shown where none is named."""
    return models_of(request).current


async def lanes_for(request: Request, model: str | None, makes: Makes = "pictures") -> Lanes:
    """What serves `model`, loaded if need be and kept open until the answer is out; without a name the first model that
    `makes` what is asked for.

    Its engines expect a request from now on (`state.coming`): those that come at the same time start together.
    Raises `ApiError`: 404 for a name that is not served, 503 for a model that can't be loaded.
    """
    lanes, give_back = await models_of(request).take(model, request.state.request_id, request.state.client, makes)
    holds: list[Callable[[], None]] = request.state.holds
    holds.append(give_back)
    coming = request.state.coming = ExitStack()
    holds.append(coming.close)
    for lane in lanes.all:
        coming.enter_context(lane.omni.pipeline.gathering())
    return lanes


def viewer_of(request: Request) -> str | None:
    """Whose requests are shown: with keys only one's own, without all."""
    return request.state.client if state_of(request).keys else None
