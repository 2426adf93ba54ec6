"""What goes wrong between us and a service, and what that means for the row, the endpoint and the run."""

from typing import Literal

from interlace.errors import EngineDeadError, RequestError
from interlace.retry import may_pass

Fate = Literal["again", "row", "endpoint"]

_ENDPOINT = frozenset({401, 402, 404})  # its key, its account, its address or its model: wrong for every row


class ServiceError(RequestError):
    """A request that a service did not answer with an image.

    `fate` says what it is about: "again" may pass, "row" would be refused every time, "endpoint" is wrong for all rows.
    """

    transient = False  # whoever sees this outside the pool: it has been tried often enough

    def __init__(
        self, message: str, fate: Fate = "row", *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.fate, self.status, self.retry_after_s = fate, status, retry_after_s

    @property
    def is_rate_limit(self) -> bool:
        return self.status == 429 or self.retry_after_s is not None


class RequestCapError(EngineDeadError):
    """`max_requests` are sent. What is left was not asked for, and a further run goes on with it."""


class NoEndpointError(EngineDeadError):
    """No endpoint can be used any more; nothing that is left can be made."""


def fate_of(status: int) -> Fate:
    """What an HTTP status that is not a success is about."""
    if may_pass(status):
        return "again"
    return "endpoint" if status in _ENDPOINT else "row"
