"""What the server says of several stages, and of prompt caches: in /info, /v1/stats and the metrics."""

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from interlace.serve.lanes import Lane
from interlace.stages.omni_stages import OmniStages

PREFIX = "interlace"


def described_stages(lanes: Sequence[Lane]) -> list[dict[str, Any]]:
    """Each stage of what draws; a plain model is one."""
    first = lanes[0].omni
    if isinstance(first, OmniStages):
        return list(first.describe()["stages"])
    return [{"type": "diffusion", "model": lane.name, "pipeline": lane.pipeline_name} for lane in lanes]


def counted_stages(lanes: Sequence[Lane]) -> list[dict[str, Any]]:
    """Requests at each stage, so far and now; empty where there is one stage."""
    return [stage for lane in lanes if isinstance(lane.omni, OmniStages) for stage in lane.omni.pipeline.stats()]


def stage_metrics(lanes: Sequence[Lane]) -> Iterator[Metric]:
    """For Prometheus, read anew at every scrape."""
    labels = ["stage", "model"]
    requests = CounterMetricFamily(f"{PREFIX}:stage_requests", "Requests by stage", labels=[*labels, "outcome"])
    seconds = CounterMetricFamily(f"{PREFIX}:stage_seconds", "Seconds that requests spent there", labels=labels)
    now = GaugeMetricFamily(f"{PREFIX}:stage_requests_now", "Requests at a stage", labels=[*labels, "state"])
    for stage in counted_stages(lanes):
        names = [str(stage["stage_id"]), stage["model"]]
        for outcome in ("finished", "failed"):
            requests.add_metric([*names, outcome], stage[outcome])
        seconds.add_metric(names, stage["seconds"])
        for state in ("live", "waiting"):
            now.add_metric([*names, state], stage[state])
    cached = CounterMetricFamily(f"{PREFIX}:prompt_cache", "Text encodings looked up", labels=["model", "outcome"])
    held = GaugeMetricFamily(f"{PREFIX}:prompt_cache_bytes", "Text encodings that are kept", labels=["model"])
    for lane in lanes:
        cache = lane.omni.engine.stats()["prompt_cache"]
        for outcome in ("hits", "misses", "evictions") if cache else ():
            cached.add_metric([lane.name, outcome], cache[outcome])
        if cache:
            held.add_metric([lane.name], cache["bytes"])
    yield from (requests, seconds, now, cached, held)
