"""A submitted request: its arguments, where it stands, and the future on which its owner waits."""

import itertools
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal

import torch
from torch import Tensor

from interlace.engine.caches.first_block import BlockMemory
from interlace.engine.caches.guidance import HeldGuidance
from interlace.engine.caches.step import MOST_LANES
from interlace.engine.caches.table import RequestCache
from interlace.engine.calls.call import ModuleCall
from interlace.engine.device.host import Flag
from interlace.engine.pipeline.ambient import Ambient
from interlace.engine.pipeline.strand import Strand
from interlace.engine.pipeline.variants.outfit import Outfit
from interlace.engine.pipeline.view import Parts
from interlace.engine.policy.line import Waiting
from interlace.engine.policy.pending import DECODE, ENCODE, Pending
from interlace.python.recent import Recent
from interlace.request import Metrics

StepListener = Callable[[int, int, Any], None]  # (step, num_steps, latents or None)
EngineEventKind = Literal["started", "step", "preview", "ended"]


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """News of a request: `step` of `num_steps` done, in a last forward of `rows` rows; a preview has the `latents`."""

    kind: EngineEventKind
    step: int = 0
    num_steps: int = 0
    rows: int = 0
    latents: Tensor | None = None


EngineListener = Callable[[EngineEvent], None]

TEXTS = frozenset(
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
    listener: EngineListener | None = None
    preview_every: int = 0  # steps between previews; 0: none
    adapters: Mapping[str, float] | None = None  # with weights; None: as the pipeline's owner has it
    helpers: dict[str, Any] = field(default_factory=dict)  # in the place of the pipeline's own: a scheduler, ...
    pipeline: Any = None  # a sibling of the engine's pipeline; None: that one
    order: int = field(default_factory=itertools.count().__next__)
    submitted: float = field(default_factory=monotonic)
    parts: Parts | None = None  # schedulers and the like as they were at submission
    outfit: Outfit | None = None  # what it asks to have on the modules
    metrics: Metrics = field(default_factory=Metrics)
    strand: Strand | None = None
    call: ModuleCall | None = None
    pending: Pending | None = None
    step_cache: RequestCache | None = None
    hold_guidance_after: float | None = None  # None: as the engine's settings say
    guidance: HeldGuidance | None = None
    block_memories: Recent[Hashable, BlockMemory] = field(default_factory=lambda: Recent(MOST_LANES))
    doubts: list[Flag] = field(default_factory=list)  # whether its outputs are finite, where that isn't known yet
    aborted: BaseException | None = None
    parked: bool = False  # it waits for something other than a module
    joined: bool = False  # it runs in a call with lists, and has no strand of its own
    num_requests: int = 1  # that it runs: several where it is a call with lists
    list_key: tuple[Hashable] | None = None  # once it was asked for: what its list would have in common
    num_steps: int = 0
    total_rows: int = 0
    num_rows: int = 0  # of its last forward

    num_denoised: int = 0  # denoising forwards that it took part in
    key: Hashable = None  # what must be equal for requests to share a wave

    def __post_init__(self) -> None:
        self.key = wave_key(self.kwargs)

    @property
    def strangers(self) -> bool:
        """Whether it brings code of its own."""
        return any(callable(value) and not isinstance(value, torch.nn.Module) for value in self.kwargs.values())

    def tell(self, kind: EngineEventKind, step: int | None = None, latents: Tensor | None = None) -> None:
        """Announces news to whoever listens, in the engine's thread."""
        if self.listener is not None:
            done = self.metrics.num_steps if step is None else step
            self.listener(EngineEvent(kind, done, self.num_steps, self.num_rows, latents))

    def took_part(self, stage: int, rows: int, seconds: float) -> None:
        """A forward of the scheduler's `stage` has run with a call of this request among its rows."""
        metrics = self.metrics
        metrics.num_forwards += 1
        self.total_rows += rows
        self.num_rows = rows
        metrics.mean_rows = self.total_rows / metrics.num_forwards
        if stage == ENCODE:
            metrics.encode_s += seconds
        elif stage == DECODE:
            metrics.decode_s += seconds
        else:
            metrics.denoise_s += seconds
            self.num_denoised += 1

    def waiting(self, remaining: float) -> Waiting:
        """This ticket as the scheduler sees it in the queue; `remaining` is its predicted work in seconds."""
        return Waiting(self.request_id, self.key, self.submitted, self.order, self.priority, remaining, self.deadline)


def wave_key(kwargs: Mapping[str, object]) -> Hashable:
    """What must be equal for requests to share a wave: numbers, sizes, switches; which texts and inputs are given."""
    plain = (bool, int, float, str, type(None))
    values = {k: v for k, v in kwargs.items() if k not in TEXTS and isinstance(v, plain)}
    sizes = {k: v.size for k, v in kwargs.items() if hasattr(v, "size") and isinstance(v.size, tuple)}
    given = frozenset(k for k, v in kwargs.items() if v is not None)
    return tuple(sorted(values.items(), key=lambda item: item[0])), tuple(sorted(sizes.items())), given


def copied_containers(value: Any) -> Any:
    """`value` with dicts, lists and tuples of its own, however deep; what they hold stays the same."""
    kind = type(value)
    if kind is dict:
        return {key: copied_containers(item) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(copied_containers(item) for item in value)
    return value
