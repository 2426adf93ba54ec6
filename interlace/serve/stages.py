"""What the server says of several stages, and of prompt caches: in /info, /v1/stats and the metrics."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from interlace.request import SamplingParams
from interlace.serve.errors import invalid
from interlace.serve.lanes import Lane, drawing_stages
from interlace.serve.order import Order
from interlace.stages.config import OmniStageConfig
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


def stage_args_of(
    stage_args: Sequence[Mapping[str, Any]] | None, lane: Lane
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One dict a stage as the order's own fields (the prompt, and what the last stage gets) and each stage's part.

    Raises `ApiError` where their number doesn't fit, or for what a stage on the way takes no orders for.
    """
    if not stage_args:
        return {}, []
    configs = lane.omni.configs if isinstance(lane.omni, OmniStages) else None
    num_stages = 1 if configs is None else len(configs)
    if len(stage_args) != num_stages:
        text = f"stage_args has {len(stage_args)} dicts; this server runs {num_stages} stages: give one a stage"
        raise invalid(text, "stage_args")
    if configs is None:
        return dict(stage_args[0]), []
    parts = [_part(config, args) for config, args in zip(configs[:-1], stage_args[:-1], strict=True)]
    own = dict(stage_args[-1])
    parts.append({"prompt": own.pop("prompt")} if "prompt" in own else {})
    if "prompt" in stage_args[0]:
        own["prompt"] = stage_args[0]["prompt"]
    for part in parts:
        if part.get("prompt") == own.get("prompt"):  # which holds for all stages
            part.pop("prompt", None)
    return own, parts


def _part(config: OmniStageConfig, args: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage before the last is told: its prompt, and a language model its sampling."""
    known = AR_FIELDS if config.stage_type == "ar" else frozenset[str]()
    given = sorted(args.keys() - known - {"prompt"})
    if given:
        text = f"{', '.join(given)}; expected {', '.join(sorted(known)) or 'nothing but the prompt'}"
        raise invalid(f"stage_args of stage {config.stage_id}: {text}", "stage_args")
    return dict(args)


def as_request(order: Order, index: int) -> tuple[dict[str, Any], Any]:
    """One picture of an order as `Omni.submit` takes it."""
    stages = {"stages": list(order.stages)} if order.stages else {}
    return {**order.prompt_item(), **stages}, for_stages(order.sampling_of(index), order.lane)


def for_stages(sampling: SamplingParams, lane: Lane) -> Any:
    """Parameters of the last stage that draws as `Omni.submit` takes them; earlier ones share size, seed, priority."""
    if not isinstance(lane.omni, OmniStages):
        return sampling
    common = ("height", "width", "seed", "priority")
    earlier = SamplingParams(**{name: getattr(sampling, name) for name in common})
    return {**dict.fromkeys(drawing_stages(lane.omni), earlier), lane.stage: sampling}


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
    for name, cache in _prompt_caches(lanes):
        for outcome in ("hits", "misses", "evictions"):
            cached.add_metric([name, outcome], cache[outcome])
        held.add_metric([name], cache["bytes"])
    yield from (requests, seconds, now, cached, held)


def _prompt_caches(lanes: Sequence[Lane]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each cache once, with a name: the model's, or where stages have several of them, one with its number."""
    for lane in lanes:
        if isinstance(lane.omni, OmniStages):
            caches = lane.omni.prompt_caches.stats()
            yield from ((f"{lane.name}/{i}" if i else lane.name, cache) for i, cache in enumerate(caches))
        elif (cache := lane.omni.engine.prompt_cache) is not None:
            yield lane.name, cache.stats()
