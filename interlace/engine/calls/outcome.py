"""What became of a call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interlace.engine.calls.cached.joined import JoinedCache
from interlace.engine.calls.cached.rows import give_back, row_caches
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import close
from interlace.engine.calls.roles import Role
from interlace.engine.calls.split import split


@dataclass(slots=True)
class Outcome:
    """`value`, or the `error` that the call raised; `rows` and `seconds` of its forward."""

    value: Any = None
    error: BaseException | None = None
    rows: int = 1
    seconds: float = 0.0
    caches: dict[str, Any] = field(default_factory=dict)  # by argument: what a shared forward made of the call's


def hand_back(
    outcomes: Sequence[Outcome], calls: Sequence[ModuleCall], filled: Sequence[ModuleCall], fused: Mapping[str, object]
) -> None:
    """Gives each call what the shared forward left in the caches among its arguments, `fused`."""
    for name, cache in row_caches(fused).items():
        for call, outcome, own in zip(calls, outcomes, split(cache, filled), strict=False):
            outcome.caches[name] = own
            give_back(call.named[name], own)
    for cache in fused.values():
        if isinstance(cache, JoinedCache):
            cache.commit()


def keeps(call: ModuleCall) -> bool:
    """Whether a call's forward changes a cache among its arguments, or remembers blocks."""
    held = any(leaf.role is Role.CACHE for leaf in call.layout) or bool(row_caches(call.named))
    return held or call.memory is not None


def agree(call: ModuleCall, shared: Outcome, alone: Outcome) -> bool:
    """Whether a call came to the same in a shared forward and alone: its output, and what it left in its caches."""
    return alone.error is None and close(shared.value, alone.value) and close(shared.caches, row_caches(call.named))
