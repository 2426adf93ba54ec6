"""A request from the moment it is submitted: its own containers, random numbers and helpers."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from interlace.engine.lifecycle import RequestFuture
from interlace.engine.pipeline.ambient import Ambient
from interlace.engine.pipeline.randomness import Randomness, continued
from interlace.engine.pipeline.view import Parts
from interlace.engine.threads import release_team
from interlace.engine.ticket import EngineEvent, EngineListener, StepListener, Ticket, copied_containers

_ids = itertools.count()


def make_ticket(
    kwargs: Mapping[str, object], parts: Parts, future: RequestFuture, request_id: str | None = None
) -> Ticket:
    """A ticket for a call of the pipeline with its own arguments. Called in the submitter's thread, whose it is."""
    release_team()  # the caller's, if it ran the pipeline or drew latents: else every forward is slower
    return Ticket(
        request_id or f"request-{next(_ids)}",
        {name: copied_containers(value) for name, value in kwargs.items()},
        Ambient(_randomness(kwargs)),
        future,
        parts=parts,
    )


def of_steps(on_step: StepListener) -> EngineListener:
    """A listener that passes on steps and previews alone."""

    def tell(event: EngineEvent) -> None:
        if event.kind in ("step", "preview"):
            on_step(event.step, event.num_steps, event.latents)

    return tell


def _randomness(kwargs: Mapping[str, Any]) -> Randomness:
    """What a pipeline draws from that ignores its `generator`: that generator's seed, else the caller's own state."""
    generator = kwargs.get("generator")
    first = generator[0] if isinstance(generator, (list, tuple)) and generator else generator
    return Randomness(seed=first.initial_seed()) if isinstance(first, torch.Generator) else continued()
