"""What others look at of a stage's engine, for engines in other processes. Never waits for them."""

from collections.abc import Sequence
from dataclasses import replace

from interlace.config import EngineConfig
from interlace.engine.statistics import EngineStatistics, LiveRequest
from interlace.models.adapters.names import LoraNames
from interlace.models.arguments import ArgumentMapper
from interlace.stages.replicas.counts import ReplicaStatus
from interlace.stages.replicas.processes.process import ReplicaSpec
from interlace.stages.replicas.replicas import ReplicaStage


class ReplicaEngines:
    """The engines of all replicas as one: counts are sums, as they were told last (a fifth of a second ago)."""

    def __init__(self, stage: ReplicaStage, config: EngineConfig) -> None:
        """`config` is that of one of them."""
        self._stage = stage
        self.config = replace(config, max_num_seqs=config.max_num_seqs * len(stage.places))

    @property
    def is_open(self) -> bool:
        """While one lives."""
        return self._stage.is_open

    def statistics(self) -> EngineStatistics:
        """As `Engine.statistics`."""
        counts = self._stage.counts()
        return counts if isinstance(counts, EngineStatistics) else EngineStatistics()

    def replicas(self) -> list[ReplicaStatus]:
        """Each of them now."""
        return self._stage.replicas()

    def stats(self) -> dict[str, object]:
        """As `Engine.stats`, and each replica's under `replicas`."""
        return {**EngineStatistics().as_dict(), **self._stage.stats()}

    def live(self) -> list[LiveRequest]:
        """As `Engine.live`."""
        return self._stage.live()

    def forwarding(self) -> tuple[str, ...]:
        """As `Engine.forwarding`."""
        return self._stage.forwarding()


class DrawingReplicas(ReplicaStage):
    """Replicas of a stage that draws, as others see one that is here. Its `model` has no weights."""

    def __init__(self, specs: Sequence[ReplicaSpec], config: EngineConfig, num_needed: int | None = None) -> None:
        super().__init__(specs, num_needed)
        assert self.shadow is not None
        self.model = self.shadow
        self.arguments = ArgumentMapper(self.model)
        self.loras = LoraNames(self.model.name, self.model.extras)
        self.engine = ReplicaEngines(self, config)
