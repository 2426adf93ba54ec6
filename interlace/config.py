"""The engine's settings. Flags, YAML keys, environment names and their help texts all come from these fields."""

from dataclasses import dataclass
from typing import Literal, get_args

from interlace.checks import check_choice, check_number
from interlace.units import parse_bytes

VerifyMode = Literal["first", "always", "off"]
CacheType = Literal["none", "step_cache", "first_block_cache"]
CACHE_THRESHOLDS: dict[str, float] = {"step_cache": 0.1, "first_block_cache": 0.05}  # of all caches, by name
Policy = Literal["fifo", "sjf", "deadline"]
PromptCachePolicy = Literal["fifo", "lru", "lfu"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How one engine batches. Immutable; raises `InvalidRequestError` for a value that makes no sense."""

    max_num_seqs: int = 16
    """Requests in flight at once; further ones wait in the queue."""
    max_batch_rows: int | Literal["auto"] | None = "auto"
    """Most rows in one forward (a request under classifier-free guidance has two). auto: as many as measured forwards
    say is quickest; none: no limit."""
    max_batch_tokens: int | None = None
    """Most latent positions in one forward, summed over its rows; None: no limit."""
    resolution_tolerance: float | Literal["auto"] = "auto"
    """Most padding in a forward that pictures of different sizes share, as a share of its tokens; 0: equal sizes only.
    auto: as much as measured forwards say that it pays, 0.1 until there are any. Nobody's size changes."""
    batch_invariant: bool = False
    """Give every forward of a shape one fixed number of rows (max_batch_rows, or 4), filled up where fewer are there:
    a request gets the same bits whatever runs beside it."""
    row_buckets: bool = False
    """Fill forwards up to 1, 2, 4, 8, ... rows with copies, so that there are few row counts to compile for."""
    step_execution: bool = True
    """True: requests join and leave at every forward. False: waves of requests with equal parameters."""
    join_equal: bool = True
    """Run requests with equal parameters that start together as one call of the pipeline with lists, where its Python
    counts (small models) and a check has shown that each gets what it would have got alone."""
    request_batch_max_wait_ms: float = 0.0
    """With waves: the longest wait in milliseconds for company before a wave starts."""
    policy: Policy = "fifo"
    """Which work goes first among equals of one priority: fifo, the oldest request; sjf, the one with the least
    predicted work left (waiting counts); deadline, the one whose timeout ends first."""
    shed_hopeless: bool = False
    """End a request as soon as it can't meet its timeout, by prediction."""
    verify_fusion: VerifyMode = "first"
    """Check fused forwards against running alone: the first of each kind, always, or never."""
    cache_type: CacheType = "none"
    """Skip work that is predicted to change little, from a request's own history: whole denoiser calls (step_cache) or
    all blocks but the first (first_block_cache; FLUX, SD3, Qwen-Image). Faster, and lossy."""
    cache_threshold: float | None = None
    """How much may change, relatively: lower is closer, higher is faster. By default 0.1; for the first block 0.05."""
    hold_guidance_after: float = 1.0
    """The share of a request's steps after which classifier-free guidance is held: of the calls, or rows, with and
    without the prompt only one is computed, the other follows at the last difference. Faster, and lossy; 1: never."""
    prompt_cache_bytes: int = 0
    """Keep text encoders' outputs within so many bytes and answer equal prompts from them, to the bit; 0: don't."""
    prompt_cache_policy: PromptCachePolicy = "lru"
    """What leaves a full prompt cache first: the oldest (fifo), the least recently used (lru) or least often (lfu)."""
    memory_utilization: float | None = None
    """Most of the device's memory that weights and forwards may take together, as a share: forwards get as many rows
    as fit, requests wait, a picture is decoded in tiles where it has to be, and what never fits is refused. By default
    0.9 on CUDA; no limit on a CPU, where it goes by an estimate."""
    memory_budget: int | str | None = None
    """The same in bytes, or as text such as 20GiB; instead of memory_utilization."""
    mix_adapters: bool = True
    """Let requests with different adapters (LoRA) share a forward; otherwise only those with equal ones do."""
    overlap_decode: bool = True
    """On a GPU: decode on a stream of its own while the next forward of other requests runs."""
    check_finite: bool = True
    """Treat NaN or Inf in an output as that request's error."""

    def __post_init__(self) -> None:
        check_number("max_num_seqs", self.max_num_seqs, 1, whole=True)
        for name in ("max_batch_rows", "max_batch_tokens"):
            if getattr(self, name) not in (None, "auto" if name == "max_batch_rows" else None):
                check_number(name, getattr(self, name), 1, whole=True)
        if self.cache_threshold is not None:
            check_number("cache_threshold", self.cache_threshold, 0)
        check_number("hold_guidance_after", self.hold_guidance_after, 0, high=1)
        if self.resolution_tolerance != "auto":
            check_number("resolution_tolerance", self.resolution_tolerance, 0, high=0.9, also="auto")
        check_number("prompt_cache_bytes", self.prompt_cache_bytes, 0, whole=True)
        check_choice("prompt_cache_policy", self.prompt_cache_policy, get_args(PromptCachePolicy))
        check_choice("cache_type", self.cache_type, ("none", *CACHE_THRESHOLDS))
        if self.memory_utilization is not None:
            check_number("memory_utilization", self.memory_utilization, 0.01, high=1.0)
        if self.memory_budget is not None:
            parse_bytes("memory_budget", self.memory_budget)
        check_number("request_batch_max_wait_ms", self.request_batch_max_wait_ms, 0)
        for name in (
            "batch_invariant", "step_execution", "join_equal", "check_finite", "shed_hopeless", "mix_adapters",
            "overlap_decode", "row_buckets",
        ):  # fmt: skip
            check_choice(name, getattr(self, name), (True, False))
        check_choice("verify_fusion", self.verify_fusion, get_args(VerifyMode))
        check_choice("policy", self.policy, get_args(Policy))

    @property
    def threshold(self) -> float:
        """The cache's threshold, given or default."""
        return CACHE_THRESHOLDS.get(self.cache_type, 0.0) if self.cache_threshold is None else self.cache_threshold

    def invariant_rows(self, rows: int) -> int:
        """In batch-invariant mode: the rows of every forward that is made of calls with so many rows each."""
        wanted = self.max_batch_rows if isinstance(self.max_batch_rows, int) else _INVARIANT_ROWS
        return max(wanted // rows, 1) * rows

    def bucket_rows(self, rows: int) -> int:
        """With row buckets: the rows of a forward of so many, filled up as far as `max_batch_rows` allows."""
        bucket = 1 << (rows - 1).bit_length()
        return bucket if not isinstance(self.max_batch_rows, int) or bucket <= self.max_batch_rows else rows


_INVARIANT_ROWS = 4
