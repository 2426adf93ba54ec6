"""Prometheus metrics, named as vLLM names its own. Counts of the engine are read when somebody scrapes."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from interlace.errors import AbortedError
from interlace.request import Metrics
from interlace.serve.stages import stage_metrics

if TYPE_CHECKING:
    from interlace.serve.registry import Registry

PREFIX = "interlace"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
_PHASES = {
    "queue": ("request_queue_time_seconds", "queue_s", "waiting for a place in the engine"),
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

    def follow(self, registry: "Registry") -> None:
        """Add what the registry and its engines count."""
        self.registry.register(EngineCollector(registry))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """Reads the engines' counts anew for every scrape."""

    def __init__(self, registry: "Registry") -> None:
        self._registry = registry

    def describe(self) -> Iterable[Metric]:
        """Nothing is known beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Gauges of the queue, counts and widths of forwards by module, memory."""
        yield from self._queue()
        yield from self._forwards()
        yield from stage_metrics(self._registry.lanes.all)
        yield from self._memory()

    def _queue(self) -> Iterator[Metric]:
        states = [state["state"] for lane in self._registry.lanes.all for state in lane.omni.engine.live()]
        admission = self._registry.admission
        yield _gauge("num_requests_running", "Pictures in the engine", states.count("running"))
        yield _gauge("num_requests_waiting", "Pictures that wait for a place", states.count("waiting"))
        yield _gauge("retry_after_seconds", "What a refused client would be told", admission.retry_after_s)
        refused = CounterMetricFamily(f"{PREFIX}:refused", "Requests refused at the door", labels=["reason"])
        for reason, count in admission.refused.items():
            refused.add_metric([reason], count)
        yield refused

    def _forwards(self) -> Iterator[Metric]:
        labels = ["model", "module"]
        widths = HistogramMetricFamily(f"{PREFIX}:forward_rows", "Rows of a forward", labels=labels)
        padding = CounterMetricFamily(f"{PREFIX}:padded_text_tokens", "Text tokens filled up", labels=["model"])
        texts = CounterMetricFamily(f"{PREFIX}:shared_text_tokens", "Text tokens in shared forwards", labels=["model"])
        fused = CounterMetricFamily(f"{PREFIX}:verified_fusions", "Fused forwards that were checked", labels=["model"])
        unfused = GaugeMetricFamily(
            f"{PREFIX}:unfused_kinds", "Kinds of calls that run alone", labels=["model", "module", "reason"]
        )
        retries = CounterMetricFamily(f"{PREFIX}:oom_retries", "Forwards halved for want of memory", labels=["model"])
        skipped = CounterMetricFamily(f"{PREFIX}:cache_hits", "Denoising calls answered by a cache", labels=["model"])
        held = CounterMetricFamily(f"{PREFIX}:guidance_held", "Denoising calls at held guidance", labels=["model"])
        for lane in self._registry.lanes.all:
            stats = lane.omni.engine.stats()
            for module, counts in stats["widths"].items():
                widths.add_metric([lane.name, module], *_histogram(counts))
            padding.add_metric([lane.name], stats["padding"]["padded_tokens"])
            texts.add_metric([lane.name], stats["padding"]["text_tokens"])
            fused.add_metric([lane.name], stats["verified"])
            for module, reason in stats["unfused"].items():
                unfused.add_metric([lane.name, module, reason[:200]], 1)
            retries.add_metric([lane.name], stats["out_of_memory"])
            skipped.add_metric([lane.name], stats["skipped"])
            held.add_metric([lane.name], stats["guidance_held"])
        yield from (widths, padding, texts, fused, unfused, retries, skipped, held)

    def _memory(self) -> Iterator[Metric]:
        used = GaugeMetricFamily(f"{PREFIX}:device_memory_bytes", "Memory of an accelerator", labels=["device", "kind"])
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            used.add_metric([str(index), "used"], total - free)
            used.add_metric([str(index), "total"], total)
            used.add_metric([str(index), "allocated"], torch.cuda.memory_allocated(index))
        yield used


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}:{name}", text, value=value)


def _histogram(counts: dict[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulated buckets and the sum, from forwards by rows."""
    buckets: list[tuple[str, float]] = [
        (str(float(bound)), sum(count for rows, count in counts.items() if rows <= bound)) for bound in _ROWS
    ]
    total = sum(counts.values())
    return [*buckets, ("+Inf", total)], sum(rows * count for rows, count in counts.items())
