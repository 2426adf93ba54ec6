"""Who may come in: a bounded queue, a bound on each client, and an honest Retry-After. Knows nothing of HTTP bodies."""

import math
from collections import Counter
from collections.abc import Callable

from interlace.serve.http.errors import ApiError
from interlace.serve.settings import ServeSettings

_WEIGHT = 0.1  # of a new measurement in the running means


class Admission:
    """Counts pictures under way, by client, and measures how long one takes."""

    def __init__(self, settings: ServeSettings, max_running: Callable[[], int]) -> None:
        self._settings, self._max_running = settings, max_running
        self.by_client: Counter[str] = Counter()
        self.live = 0
        self.service_s = 1.0  # from start to end, running mean
        self.draining = False
        self.refused: Counter[str] = Counter()

    def check(self, client: str, n: int) -> None:
        """Raises `ApiError`: 503 while draining, 429 where the queue is full or the client has enough under way."""
        if self.draining:
            raise self._refusal("draining", 503, "the server is shutting down; try another or later")
        most = self._settings.max_requests_per_key
        if most is not None and self.by_client[client] + n > most:
            under_way = f"{self.by_client[client]} of at most {most} pictures of yours are under way"
            raise self._refusal("client_limit", 429, f"{under_way}; this request wants {n} more: wait for some to end")
        room = self._max_running() + self._settings.max_queued_requests - self.live
        if n > room:
            text = f"the queue is full: room for {max(room, 0)} more pictures, {n} wanted; try again later"
            raise self._refusal("queue_full", 429, text)

    def enter(self, client: str, n: int) -> None:
        """So many pictures of `client` are under way."""
        self.live += n
        self.by_client[client] += n

    def leave(self, client: str, service_s: float | None) -> None:
        """One has ended; `service_s` is how long it ran, None where that says nothing."""
        self.live -= 1
        self.by_client[client] -= 1
        if self.by_client[client] <= 0:
            del self.by_client[client]
        if service_s is not None:
            self.service_s += _WEIGHT * (service_s - self.service_s)

    @property
    def retry_after_s(self) -> int:
        """Seconds until a slot should be free, from measured service times: at least 1."""
        most = max(self._max_running(), 1)
        ahead = max(self.live - most + 1, 1)
        return max(1, min(600, math.ceil(self.service_s * ahead / most)))

    def _refusal(self, code: str, status: int, text: str) -> ApiError:
        self.refused[code] += 1
        return ApiError(status, text, code=code, headers={"Retry-After": str(self.retry_after_s)})
