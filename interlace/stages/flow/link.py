"""One stage's place in a pipeline: how requests get there, and what has become of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.prompts import as_prompt, parse_prompt
from interlace.request import Request, SamplingParams
from interlace.stages.config import OmniStageConfig
from interlace.stages.flow.flow import Flow
from interlace.stages.flow.slots import Slots
from interlace.stages.handoff import HandoffFunction, Handover
from interlace.stages.stage import Stage


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """One stage so far (`finished`, `failed`) and now; `seconds` is what requests spent there, summed."""

    stage_id: int
    stage_type: str
    model: str
    finished: int
    failed: int
    live: int
    waiting: int
    limit: int | None
    seconds: float


@dataclass
class Link:
    """A stage with the handoff that leads to it and the slots that it has."""

    config: OmniStageConfig
    stage: Stage
    handoff: HandoffFunction | None
    slots: Slots
    num_finished: int = 0
    num_failed: int = 0
    seconds: float = 0.0

    @property
    def forgives(self) -> bool:
        """Whether it goes on with the user's own prompt where the stage before has failed."""
        return self.config.handoff is not None and self.config.handoff.on_error == "user_prompt"

    def counts(self) -> StageCounts:
        """What has become of the requests that came here."""
        return StageCounts(
            stage_id=self.config.stage_id,
            stage_type=self.config.stage_type,
            model=self.config.model,
            finished=self.num_finished,
            failed=self.num_failed,
            live=len(self.slots.inside),
            waiting=self.slots.num_waiting,
            limit=self.slots.limit,
            seconds=self.seconds,
        )

    def handed_over(self, flow: Flow) -> Request:
        """What this stage is to do, from what came out of the one before, in what is left of the time."""
        own, before = flow.at[self.config.stage_id], flow.outputs[-1]
        if before.error is not None or self.handoff is None:
            request = replace(own, prompt=flow.request.prompt)
        else:
            handover = Handover(
                output=before,
                prompt=as_prompt(own),
                user_prompt=as_prompt(flow.request),
                outputs=tuple(flow.outputs),
            )
            request = self._received(self.handoff(handover), own)
        if isinstance(request.sampling, SamplingParams) and flow.left_s is not None:
            request = replace(request, sampling=replace(request.sampling, timeout_s=flow.left_s))
        return request

    def _received(self, handed: Any, own: Request) -> Request:
        """What a handoff gave (a text, a dict as users write it, a request) as this stage's request."""
        if isinstance(handed, Request):
            return replace(handed, request_id=own.request_id)
        if isinstance(handed, str):
            return replace(own, prompt=handed)
        if not isinstance(handed, Mapping):
            text = f"the handoff to stage {self.config.stage_id} returned a {type(handed).__name__}; expected a prompt"
            raise InvalidRequestError(text, "handoff")
        given = {name: value for name, value in handed.items() if name != "request_id"}
        return replace(parse_prompt(given, own.sampling, own.request_id), preview_every=own.preview_every)
