"""What each replica of a model counts, for Prometheus: label `replica`."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from interlace.engine.statistics import EngineStatistics
from interlace.serve.jobs.models import Lane
from interlace.serve.metrics import PREFIX
from interlace.stages.replicas.front import ReplicaEngines

_LABELS = ["model", "replica"]


def replica_metrics(lanes: Sequence[Lane]) -> Iterator[Metric]:
    """Whether each is up, what it has to do, restarts, and its forwards by module. Nothing for models without."""
    up = GaugeMetricFamily(f"{PREFIX}:replica_up", "Whether a replica's process is open", labels=_LABELS)
    now = GaugeMetricFamily(f"{PREFIX}:replica_requests_now", "Requests that a replica has", labels=_LABELS)
    restarts = CounterMetricFamily(
        f"{PREFIX}:replica_restarts", "Processes that took a dead one's place", labels=_LABELS
    )
    forwards = CounterMetricFamily(f"{PREFIX}:replica_forwards", "Forwards by replica", labels=[*_LABELS, "module"])
    rows = CounterMetricFamily(f"{PREFIX}:replica_rows", "Their rows", labels=[*_LABELS, "module"])
    for lane in lanes:
        engines = lane.omni.engine
        for one in engines.replicas() if isinstance(engines, ReplicaEngines) else ():
            names = [lane.name, str(one.replica)]
            up.add_metric(names, float(one.state == "up"))
            now.add_metric(names, one.live)
            restarts.add_metric(names, one.restarts)
            counts = one.engine if isinstance(one.engine, EngineStatistics) else EngineStatistics()
            for module, count in counts.forwards.items():
                forwards.add_metric([*names, module], count)
                rows.add_metric([*names, module], counts.rows.get(module, 0))
    yield from (up, now, restarts, forwards, rows)
