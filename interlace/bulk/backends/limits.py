"""When an endpoint may be sent the next request: rate, requests at once, pauses it asked for, and its share.

Pure policy: the time is an argument, nothing is sent, nothing waits, no locks.
"""

import math
from collections.abc import Callable, Sequence

from interlace.bulk.backends.endpoints import Endpoint
from interlace.bulk.backends.errors import ServiceError
from interlace.bulk.backends.service import Connection
from interlace.retry import pause_s

_FIRST_WAIT_S = 0.5
_PATIENCE_S = 5.0  # how long a request waits for another endpoint than the one that just failed it
_STREAK = 3  # failures in a row that mean the endpoint and not the rows


def backoff_s(attempt: int, jitter: float) -> float:
    """The wait of one image after failed attempt `attempt` (from 1); `jitter` is a random number from 0 to 1."""
    return pause_s(attempt, jitter, first_s=_FIRST_WAIT_S)


class TokenBucket:
    """At most `per_minute` requests a minute; up to one second's worth of them at once."""

    def __init__(self, per_minute: float | None, now: float) -> None:
        self._per_s = math.inf if per_minute is None else per_minute / 60
        self._size = max(1.0, self._per_s)
        self._tokens, self._filled_at = self._size, now

    def ready_in(self, now: float) -> float:
        """Seconds until a request may go."""
        if self._per_s == math.inf:
            return 0.0
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        return 0.0 if self._tokens >= 1 - 1e-9 else (1 - self._tokens) / self._per_s

    def take(self) -> None:
        self._tokens -= 1


class EndpointGate:
    """An endpoint and how it is doing.

    `window` is how many requests it is given at once: halved when it says "too many", and opened bit by bit as it
    answers (the additive increase and multiplicative decrease of TCP).
    """

    def __init__(self, endpoint: Endpoint, connection: Connection, num_workers: int, now: float) -> None:
        self.endpoint, self.connection = endpoint, connection
        self.max_workers = min(num_workers, endpoint.max_workers or num_workers)
        self.window = float(self.max_workers)
        self.bucket = TokenBucket(endpoint.requests_per_minute, now)
        self.virtual_time = 0.0  # requests / weight: who has least is next
        self.paused_until = now
        self.streak = 0  # failures since the last image
        self.out: str | None = None  # why it can't be used any more
        self.num_in_flight = self.num_requests = self.num_images = self.num_limited = self.num_errors = 0
        self.most_in_flight = 0
        self.seconds = 0.0  # of all answers

    def opens_in(self, now: float) -> float:
        """Seconds until it may be sent a request; infinite while only the end of another request can open it."""
        if self.out is not None or self.num_in_flight >= max(1, int(self.window)):
            return math.inf
        return max(0.0, self.paused_until - now, self.bucket.ready_in(now))

    def send(self) -> None:
        self.bucket.take()
        self.num_requests += 1
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)

    def ended(self, seconds: float, *, was_sent: bool) -> None:
        self.num_in_flight -= 1
        self.num_requests -= not was_sent
        self.seconds += seconds

    def answered(self) -> None:
        """It made an image."""
        self.num_images += 1
        self.streak = 0
        self.window = min(self.max_workers, self.window + 1 / self.window)

    def refused(self) -> None:
        """It answered, and what it did not like is the row."""
        self.num_errors += 1
        self.streak = 0

    def failed(self, error: ServiceError, now: float, jitter: float) -> None:
        """It did not make an image for a reason that may pass, or that rules it out."""
        self.num_errors += 1
        if error.fate == "endpoint":
            self.out = str(error)
            return
        self.num_limited += error.is_rate_limit
        is_news = now >= self.paused_until  # and not one more of the requests that were under way when it paused
        self.streak += is_news
        wait = error.retry_after_s
        if wait is None and (error.status == 429 or self.streak >= _STREAK):
            wait = backoff_s(self.streak - (0 if error.status == 429 else _STREAK - 1), jitter) if is_news else 0.0
        if is_news and error.is_rate_limit:
            self.window = max(1.0, min(self.window, self.num_in_flight + 1) / 2)
        self.paused_until = max(self.paused_until, now + (wait or 0.0))


class Gates:
    """All endpoints. Requests go round them by weight (start-time fair queueing)."""

    def __init__(self, gates: Sequence[EndpointGate]) -> None:
        self.all = list(gates)
        self._virtual_now = 0.0

    @property
    def usable(self) -> list[EndpointGate]:
        return [gate for gate in self.all if gate.out is None]

    def pick(self, now: float, avoid: EndpointGate | None = None) -> EndpointGate | None:
        """The endpoint for the next request, or None while none is open.

        `avoid` is taken only where no other one will be open soon.
        """
        open_now = [gate for gate in self.all if gate.opens_in(now) <= 0]
        if avoid in open_now and self._another_is_near(now, avoid):
            open_now.remove(avoid)
        if not open_now:
            return None
        gate = min(open_now, key=self._turn)
        self._virtual_now = self._turn(gate)
        gate.virtual_time = self._virtual_now + 1 / gate.endpoint.weight
        return gate

    def opens_in(self, now: float) -> float:
        return min((gate.opens_in(now) for gate in self.all), default=math.inf)

    def _turn(self, gate: EndpointGate) -> float:
        return max(gate.virtual_time, self._virtual_now)  # who was away has no claim to what it missed

    def _another_is_near(self, now: float, avoid: EndpointGate | None) -> bool:
        others = [gate for gate in self.usable if gate is not avoid]
        return any(gate.num_in_flight or gate.opens_in(now) <= _PATIENCE_S for gate in others)


Clock = Callable[[], float]
