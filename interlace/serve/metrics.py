"""Prometheus metrics of the server itself, named as vLLM names its own. `collector` reads what the engines count."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from interlace.errors import AbortedError
from interlace.request import Metrics

PREFIX = "interlace"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_PHASES = {
    "queue": ("request_queue_time_seconds", "queue_s", "waiting for a slot in the engine"),
    "encode": ("request_encode_time_seconds", "encode_s", "in forwards of encoders"),
    "denoise": ("request_denoise_time_seconds", "denoise_s", "in forwards of denoisers"),
    "decode": ("request_decode_time_seconds", "decode_s", "in forwards of decoders"),
    "e2e": ("e2e_request_latency_seconds", "total_s", "from submission to the end"),
}


class ServerMetrics:
    """One server's own. `requests` counts by outcome: ok, or the code of the error."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(f"{PREFIX}:request", "Requests that ended", ["kind", "outcome"], registry=self.registry)
        self.http = Counter(
            f"{PREFIX}:http_response", "HTTP answers", ["method", "path", "status"], registry=self.registry
        )
        self.aborts = Counter(f"{PREFIX}:abort", "Pictures aborted", registry=self.registry)
        self.images = Counter(f"{PREFIX}:image", "Pictures that the engine made", registry=self.registry)
        self.phases = {
            attribute: Histogram(f"{PREFIX}:{name}", f"Seconds {text}", buckets=_SECONDS, registry=self.registry)
            for name, attribute, text in _PHASES.values()
        }
        self.disconnects = Counter(f"{PREFIX}:disconnect", "Clients that left early", registry=self.registry)

    def observe(self, metrics: Metrics, error: BaseException | None) -> None:
        """One picture has left the engine."""
        if isinstance(error, AbortedError):
            self.aborts.inc()
        if error is None:
            self.images.inc()
            for attribute, histogram in self.phases.items():
                histogram.observe(getattr(metrics, attribute))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
