"""A call that waits, as policies see it. Knows nothing of torch."""

from collections.abc import Hashable
from dataclasses import dataclass

ENCODE, DECODE, DENOISE = 0, 1, 2  # in the order in which they run: what lets requests join, what lets them leave


@dataclass(frozen=True, slots=True)
class Pending:
    """A paused call, as the scheduler sees it. `order` is the age of its request: smaller is older."""

    request_id: str
    module: str
    signature: Hashable  # equal: may share a forward; None: runs alone
    stage: int  # ENCODE, DECODE or DENOISE
    rows: int
    tokens: int
    order: int
    priority: int = 0
    shape: str = ""  # what a forward of it costs is known by this
    remaining: float = 0.0  # predicted seconds until its request is done, alone
    since: float = 0.0  # when its request was submitted, seconds
    deadline: float | None = None  # on the clock of `since`
    places: Hashable = None  # where its tokens are: calls with others share only packed
    lane: str = ""  # lanes take turns


def length_of(call: Pending) -> float:
    """Tokens in a row."""
    return call.tokens / call.rows


def stage_of(component: str, method: str) -> int:
    """ENCODE, DECODE or DENOISE, from a component's name in its pipeline."""
    if method == "decode" or component.startswith(("vocoder", "safety_checker", "movq", "vqgan", "vqvae")):
        return DECODE
    if method != "forward" or "encoder" in component or component.startswith(("vae", "image_", "text_", "feature")):
        return ENCODE
    return DENOISE
