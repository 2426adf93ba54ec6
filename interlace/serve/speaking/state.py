"""What the routes of a speaking server find in their application."""

from dataclasses import dataclass, field
from time import time
from typing import Any

from starlette.requests import Request

from interlace.omni import Omni
from interlace.serve.http.auth import Keys
from interlace.serve.http.errors import ApiError
from interlace.serve.metrics import ServerMetrics
from interlace.serve.settings import ServeSettings
from interlace.serve.speaking.answers import Answers


@dataclass
class SpeakingState:
    """One server's parts. `about` is the model's own description."""

    settings: ServeSettings
    omni: Omni
    registry: Answers
    metrics: ServerMetrics
    keys: Keys
    about: dict[str, Any]
    warm: bool = False
    broken: str | None = None
    started: float = field(default_factory=time)  # Unix seconds

    @property
    def names(self) -> list[str]:
        """What a request may give as `model`."""
        return list(dict.fromkeys([str(self.about["model"]), *self.settings.model_alias]))

    def check_model(self, model: str | None) -> None:
        """Raises `ApiError` 404 for a model that isn't here."""
        if model and model not in self.names and not self.settings.accept_any_model:
            text = f"model {model[:80]!r} is not served here; expected {' or '.join(self.names)}, or none"
            raise ApiError(404, text, code="model_not_found", param="model")


def speaking(request: Request) -> SpeakingState:
    """All of it."""
    state: SpeakingState = request.app.state.server
    return state
