"""A submitted request: its arguments, where it stands, and the future on which its owner waits."""

import itertools
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from interlace.engine.ambient import Ambient
from interlace.engine.call import ModuleCall
from interlace.engine.first_block import BlockMemory
from interlace.engine.guidance import HeldGuidance
from interlace.engine.scheduler import Pending, Waiting
from interlace.engine.step_cache import Lanes, StepCache
from interlace.engine.strand import Strand
from interlace.request import Metrics

StepListener = Callable[[int, int, Any], None]  # (step, num_steps, latents or None)

_TEXTS = frozenset(
    {"prompt", "prompt_2", "prompt_3", "prompt_4", "negative_prompt", "negative_prompt_2", "negative_prompt_3"}
)


@dataclass(eq=False)
class Ticket:
    """One request on its way through the engine. `deadline` is on the clock of `time.monotonic`."""

    request_id: str
    kwargs: Mapping[str, Any]
    ambient: Ambient
    future: "Future[Any]"
    priority: int = 0
    deadline: float | None = None
    on_step: StepListener | None = None
    preview_every: int = 0  # steps between previews; 0: none
    order: int = field(default_factory=itertools.count().__next__)
    submitted: float = field(default_factory=monotonic)
    metrics: Metrics = field(default_factory=Metrics)
    strand: Strand | None = None
    call: ModuleCall | None = None
    pending: Pending | None = None
    step_cache: StepCache | None = None
    hold_guidance_after: float | None = None  # None: as the engine's settings say
    guidance: HeldGuidance | None = None
    block_memories: Lanes[BlockMemory] = field(default_factory=Lanes)
    aborted: BaseException | None = None
    num_steps: int = 0
    total_rows: int = 0
    num_rows: int = 0  # of its last forward

    num_denoised: int = 0  # denoising forwards that it took part in

    def waiting(self, remaining: float) -> Waiting:
        """This ticket as the scheduler sees it in the queue; `remaining` is its predicted work in seconds."""
        key = wave_key(self.kwargs)
        return Waiting(self.request_id, key, self.submitted, self.order, self.priority, remaining, self.deadline)


def wave_key(kwargs: Mapping[str, Any]) -> Hashable:
    """What must be equal for requests to share a wave: numbers, sizes, switches; which texts and inputs are given."""
    plain = (bool, int, float, str, type(None))
    values = {k: v for k, v in kwargs.items() if k not in _TEXTS and isinstance(v, plain)}
    sizes = {k: v.size for k, v in kwargs.items() if hasattr(v, "size") and isinstance(v.size, tuple)}
    given = frozenset(k for k, v in kwargs.items() if v is not None)
    return tuple(sorted(values.items(), key=lambda item: item[0])), tuple(sorted(sizes.items())), given
