"""Which kinds of fused forwards were seen to be right, and which to be wrong. Knows nothing of running them.

Bounded: what was forgotten is verified again when it is met again.
"""

from collections.abc import Hashable, Sequence

from interlace.config import VerifyMode
from interlace.engine.adapters.sharing import adapters_in, is_mixed
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import ALIKE, differing
from interlace.engine.device.waits import DeviceWait
from interlace.python.recent import Recent

_MOST = 4096  # kinds, of each sort, that are remembered


class Proofs:
    """What one engine has found out. `mode`: what is to be verified."""

    def __init__(self, mode: VerifyMode) -> None:
        self._mode = mode
        self._proven: Recent[Hashable, set[int]] = Recent(_MOST)  # kind -> leaves that differed in a right fusion
        self._mixed: Recent[Hashable, frozenset[str]] = Recent(_MOST)  # kind -> adapters in a right mixed forward
        self._refused: Recent[Hashable, None] = Recent(_MOST)
        self._in_parts: Recent[Hashable, int] = Recent(_MOST)  # kinds whose modules cut a batch into parts

    def to_verify(self, calls: Sequence[ModuleCall]) -> frozenset[int] | None:
        """The leaves that differ in these calls and have to be seen to come out right; None where nothing has to."""
        proven = self._proven.get(_kind(calls), set[int]() if self._mode == "off" else None)
        if proven is None or self._mode == "always":
            with DeviceWait("verification"):
                return differing(calls)
        with DeviceWait("unproven"):
            news = frozenset[int]() if self._mode == "off" else differing(calls, proven)
        strange = is_mixed(calls) and not adapters_in(calls) <= self.mixed(calls)
        return news if news or strange else None

    def right(self, calls: Sequence[ModuleCall], leaves: frozenset[int]) -> None:
        """A forward of these came out as alone, although those leaves differed."""
        self._proven.setdefault(_kind(calls), set()).update(leaves)
        if is_mixed(calls):
            self._mixed[_kind(calls)] = self.mixed(calls) | adapters_in(calls)

    def open(self, calls: Sequence[ModuleCall]) -> frozenset[int]:
        """The leaves of a right kind that have never differed: whether they may is not known."""
        proven = self._proven.get(_kind(calls), set[int]())
        return frozenset(i for i, leaf in enumerate(calls[0].layout) if i not in proven and leaf.role not in ALIKE)

    def wrong(self, calls: Sequence[ModuleCall]) -> None:
        """A forward of these came out otherwise than alone: never again."""
        self._refused[calls[0].kind, calls[0].state, is_padded(calls)] = None

    def refuses(self, call: ModuleCall, *, padded: bool = False) -> bool:
        """Whether calls of this kind were found wrong; `padded`: with texts of several lengths."""
        return (call.kind, call.state, padded) in self._refused

    def mixed(self, calls: Sequence[ModuleCall]) -> frozenset[str]:
        """The adapters that came out right in a mixed forward of this kind."""
        return self._mixed.get(_kind(calls), frozenset())

    def parts(self, call: ModuleCall) -> int:
        """In how many parts a batch of this kind has to lie; 1 for nearly all."""
        return self._in_parts.get((call.kind, call.state), 1)

    def found_parts(self, call: ModuleCall, parts: int) -> None:
        """Calls of this kind come out right with all first parts first, then all second ones, ..."""
        self._in_parts[call.kind, call.state] = parts


def is_padded(calls: Sequence[ModuleCall]) -> bool:
    """Whether texts, or pictures, of several lengths are among them."""
    return any(call.lengths != calls[0].lengths for call in calls)


def _kind(calls: Sequence[ModuleCall]) -> Hashable:
    """What has to be verified once: the calls' kind, how many rows a request brings, whether requests come in lists (of
    whatever length), whether texts are padded, and whether adapters are mixed."""
    rows = frozenset(_rows(call) for call in calls)
    return calls[0].kind, calls[0].state, rows, is_padded(calls), is_mixed(calls)


def _rows(call: ModuleCall) -> tuple[int, bool]:
    own, over = divmod(call.rows, call.requests)
    return (call.rows, False) if over else (own, call.requests > 1)
