"""What engines, stages and the queue count, read anew for every scrape by Prometheus."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from interlace.engine import accelerator
from interlace.engine.statistics import PromptCacheStatistics
from interlace.serve.jobs.models import Lane
from interlace.serve.jobs.registry import Registry
from interlace.serve.metrics import PREFIX
from interlace.serve.replica_metrics import replica_metrics

_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)


class EngineCollector(Collector):
    """Reads the counts of a registry's engines."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._models = registry.models

    def describe(self) -> Iterable[Metric]:
        """Nothing is known beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Gauges of the queue, counts and widths of forwards by module, stages, caches, memory."""
        yield from self._queue()
        yield from _forwards(self._models.all)
        yield from _stages(self._models.all)
        yield from replica_metrics(self._models.all)
        yield from _prompt_caches(self._models.all)
        yield from _memory()

    def _queue(self) -> Iterator[Metric]:
        states = [state["state"] for lane in self._models.all for state in lane.omni.engine.live()]
        admission = self._registry.admission
        yield _gauge("num_requests_running", "Pictures in the engine", states.count("running"))
        yield _gauge("num_requests_waiting", "Pictures that wait for a slot", states.count("waiting"))
        yield _gauge("retry_after_seconds", "What a refused client would be told", admission.retry_after_s)
        refused = CounterMetricFamily(f"{PREFIX}:refused", "Requests refused at the door", labels=["reason"])
        for reason, count in admission.refused.items():
            refused.add_metric([reason], count)
        yield refused


def _forwards(lanes: list[Lane]) -> Iterator[Metric]:
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
    spent = CounterMetricFamily(f"{PREFIX}:engine_seconds", "What an engine was busy with", labels=["model", "part"])
    for lane in lanes:
        counts = lane.omni.engine.statistics()
        for module, by_rows in counts.widths.items():
            widths.add_metric([lane.name, module], *_histogram(by_rows))
        padding.add_metric([lane.name], counts.padded_tokens)
        texts.add_metric([lane.name], counts.text_tokens)
        fused.add_metric([lane.name], counts.verified)
        for module, reason in counts.unfused.items():
            unfused.add_metric([lane.name, module, reason[:200]], 1)
        retries.add_metric([lane.name], counts.out_of_memory)
        skipped.add_metric([lane.name], counts.skipped)
        held.add_metric([lane.name], counts.guidance_held)
        for part, seconds in asdict(counts.seconds).items():
            spent.add_metric([lane.name, part], seconds)
    yield from (widths, padding, texts, fused, unfused, retries, skipped, held, spent)


def _stages(lanes: list[Lane]) -> Iterator[Metric]:
    """Of several stages; a model alone has its own counts."""
    labels = ["stage", "model"]
    requests = CounterMetricFamily(f"{PREFIX}:stage_requests", "Requests by stage", labels=[*labels, "outcome"])
    seconds = CounterMetricFamily(f"{PREFIX}:stage_seconds", "Seconds that requests spent there", labels=labels)
    now = GaugeMetricFamily(f"{PREFIX}:stage_requests_now", "Requests at a stage", labels=[*labels, "state"])
    for stage in (one for lane in lanes if lane.has_stages for one in lane.omni.pipeline.counts()):
        names = [str(stage.stage_id), stage.model]
        requests.add_metric([*names, "finished"], stage.finished)
        requests.add_metric([*names, "failed"], stage.failed)
        seconds.add_metric(names, stage.seconds)
        now.add_metric([*names, "live"], stage.live)
        now.add_metric([*names, "waiting"], stage.waiting)
    yield from (requests, seconds, now)


def _prompt_caches(lanes: list[Lane]) -> Iterator[Metric]:
    cached = CounterMetricFamily(f"{PREFIX}:prompt_cache", "Text encodings looked up", labels=["model", "outcome"])
    held = GaugeMetricFamily(f"{PREFIX}:prompt_cache_bytes", "Text encodings that are kept", labels=["model"])
    for name, cache in _named_caches(lanes):
        for outcome in ("hits", "misses", "evictions"):
            cached.add_metric([name, outcome], getattr(cache, outcome))
        held.add_metric([name], cache.bytes)
    yield from (cached, held)


def _named_caches(lanes: list[Lane]) -> Iterator[tuple[str, PromptCacheStatistics]]:
    """Each cache once, with a name: the model's, or where stages have several of them, one with its number."""
    for lane in lanes:
        own = lane.omni.engine.statistics().prompt_cache if lane.in_processes else None
        caches = [own] if own else lane.omni.prompt_caches.statistics()
        yield from ((f"{lane.name}/{i}" if i else lane.name, cache) for i, cache in enumerate(caches))


def _memory() -> Iterator[Metric]:
    used = GaugeMetricFamily(f"{PREFIX}:device_memory_bytes", "Memory of an accelerator", labels=["device", "kind"])
    for device, _ in accelerator.states():
        if accelerator.counts_memory(device):
            free, total = accelerator.module_of(device).mem_get_info(device)
            used.add_metric([str(device.index), "used"], total - free)
            used.add_metric([str(device.index), "total"], total)
            used.add_metric([str(device.index), "allocated"], accelerator.allocated(device))
    yield used


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}:{name}", text, value=value)


def _histogram(counts: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulated buckets and the sum, from forwards by rows."""
    buckets: list[tuple[str, float]] = [
        (str(float(bound)), sum(count for rows, count in counts.items() if rows <= bound)) for bound in _ROWS
    ]
    total = sum(counts.values())
    return [*buckets, ("+Inf", total)], sum(rows * count for rows, count in counts.items())
