"""The engine's settings. Flags, YAML keys, environment names and their help texts all come from these fields."""

from dataclasses import dataclass
from typing import Literal

from interlace.errors import InvalidRequestError

VerifyMode = Literal["first", "always", "off"]
Policy = Literal["fifo"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How one engine batches. Immutable; raises `InvalidRequestError` for a value that makes no sense."""

    max_num_seqs: int = 16
    """Requests in flight at once; further ones wait in the queue."""
    max_batch_rows: int | None = None
    """Most rows in one forward (a request under classifier-free guidance has two); None: no limit."""
    max_batch_tokens: int | None = None
    """Most latent positions in one forward, summed over its rows; None: no limit."""
    step_execution: bool = True
    """True: requests join and leave at every forward. False: waves of requests with equal parameters."""
    request_batch_max_wait_ms: float = 0.0
    """With waves: the longest wait in milliseconds for company before a wave starts."""
    policy: Policy = "fifo"
    """Which work goes first among equals of one priority."""
    verify_fusion: VerifyMode = "first"
    """Check fused forwards against running alone: the first of each kind, always, or never."""
    check_finite: bool = True
    """Treat NaN or Inf in an output as that request's error."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_batch_rows", "max_batch_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InvalidRequestError(f"{name} is {value!r}; expected a whole number of at least 1", name)
        if not self.request_batch_max_wait_ms >= 0:
            raise InvalidRequestError(
                f"request_batch_max_wait_ms is {self.request_batch_max_wait_ms!r}; expected milliseconds >= 0",
                "request_batch_max_wait_ms",
            )
        for name, known in (("verify_fusion", ("first", "always", "off")), ("policy", ("fifo",))):
            if getattr(self, name) not in known:
                raise InvalidRequestError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}", name)
