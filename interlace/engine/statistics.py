"""What an engine has done so far, as one immutable object: for metrics, summaries and people. Plain data; no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NotRequired, TypedDict

from interlace.engine.policy.cost import ShapeCost
from interlace.engine.policy.memory import MemoryFacts


class LiveRequest(TypedDict):
    """A request without a result: the step that it is at, and the rows of the last forward that it took part in."""

    request_id: str
    state: Literal["waiting", "running"]
    step: int
    num_steps: int
    rows: int
    replica: NotRequired[int | None]  # where there are several


@dataclass(frozen=True, kw_only=True)
class RequestCounts:
    """Requests that have ended, by how, and those `live` now."""

    ok: int = 0
    error: int = 0
    aborted: int = 0
    live: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineSeconds:
    """Where the engine's thread spent its time: in forwards, in requests' own code, and with the engine itself."""

    forward: float = 0.0
    strand: float = 0.0
    engine: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PromptCacheStatistics:
    """What a prompt cache holds and what it was good for."""

    policy: str
    capacity_bytes: int
    bytes: int
    entries: int
    hits: int
    misses: int
    hit_rate: float
    evictions: int
    too_large: int


class ListFacts(TypedDict):
    """Equal requests that ran as one call with lists: calls, the requests in them, and why kinds of requests don't."""

    calls: int
    requests: int
    apart: list[str]


@dataclass(frozen=True, kw_only=True)
class EngineStatistics:
    """Counts since the start, by module where there are several: "transformer", "vae.decode"."""

    forwards: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)  # of these forwards, added up
    widths: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # by module: forwards by their rows
    text_tokens: int = 0  # of texts in shared forwards, their padding included
    padded_tokens: int = 0  # of these, padding
    unfused: Mapping[str, str] = field(default_factory=dict)  # kinds of calls that run alone, and why
    exclusive: str = ""  # why requests run one at a time now; empty when they needn't
    verified: int = 0  # shared forwards that were compared with running alone
    halved: int = 0  # shared forwards that failed
    out_of_memory: int = 0
    requests: RequestCounts = RequestCounts()
    skipped: int = 0  # denoiser calls that a cache answered, whole or but for the first block
    guidance_held: int = 0  # denoiser calls, or halves of calls, that a held guidance answered
    prompt_cache: PromptCacheStatistics | None = None
    lists: ListFacts | None = None
    cost: Mapping[str, ShapeCost] = field(default_factory=dict)  # by shape
    memory: MemoryFacts | None = None
    seconds: EngineSeconds = EngineSeconds()

    @property
    def mean_rows(self) -> dict[str, float]:
        """Rows a forward, by module."""
        return {module: self.rows.get(module, 0) / count for module, count in self.forwards.items() if count}

    def as_dict(self) -> dict[str, object]:
        """As `Engine.stats()` shows it: plain data for JSON."""
        shown: dict[str, object] = asdict(self)
        padding = {"text_tokens": shown.pop("text_tokens"), "padded_tokens": shown.pop("padded_tokens")}
        return {**shown, "mean_rows": self.mean_rows, "padding": padding}
