"""Stages as what makes the images of a bulk run."""

from collections.abc import Mapping
from typing import Any

from interlace.bulk.generator import OmniGenerator
from interlace.bulk.rows import Job
from interlace.models.editing import EditModel
from interlace.stages.omni_stages import OmniStages


class StagesGenerator(OmniGenerator):
    """`OmniGenerator` over several stages: the drawing stage's parameters, and what every stage did."""

    def __init__(self, omni: OmniStages, edit: EditModel | None = None) -> None:
        super().__init__(omni, edit)
        self._stages = omni

    def resolved(self, job: Job) -> Mapping[str, Any]:
        return {**super().resolved(job), "stages": [config.model for config in self._stages.configs]}

    def facts(self) -> Mapping[str, Any]:
        kept = ("stage_id", "stage_type", "model", "finished", "failed", "seconds")
        stages = [{name: one[name] for name in kept} for one in self._stages.pipeline.stats()]
        return {**super().facts(), "stages": stages}
