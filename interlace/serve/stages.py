"""What the server says of several stages, and of prompt caches: in /info, /v1/stats and the metrics."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from interlace.serve.errors import invalid
from interlace.serve.lanes import Lane
from interlace.stages.omni_stages import OmniStages
from interlace.stages.sampling_params import AR_FIELDS

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


def stage_args_of(stage_args: Sequence[Mapping[str, Any]] | None, lane: Lane) -> tuple[dict[str, Any], dict[str, Any]]:
    """One dict a stage as what the drawing stage gets, with the prompt, and what the language models' stages get.

    Raises `ApiError` where their number doesn't fit, or for what a stage on the way takes no orders for.
    """
    if not stage_args:
        return {}, {}
    configs = lane.omni.configs if isinstance(lane.omni, OmniStages) else None
    num_stages = 1 if configs is None else len(configs)
    if len(stage_args) != num_stages:
        text = f"stage_args has {len(stage_args)} dicts; this server runs {num_stages} stages: give one a stage"
        raise invalid(text, "stage_args")
    if configs is None:
        return dict(stage_args[0]), {}
    own, language = dict(stage_args[-1]), dict[str, Any]()
    for config, args in zip(configs[:-1], stage_args[:-1], strict=True):
        given = {name: value for name, value in args.items() if name != "prompt"}
        if given and (config.stage_type != "ar" or given.keys() - AR_FIELDS):
            known = ", ".join(sorted(AR_FIELDS)) if config.stage_type == "ar" else "nothing but the prompt"
            text = f"stage_args of stage {config.stage_id}: {', '.join(given)}; expected {known}"
            raise invalid(text, "stage_args")
        language |= given
    if "prompt" in stage_args[0]:
        own["prompt"] = stage_args[0]["prompt"]
    return own, language


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
