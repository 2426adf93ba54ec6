"""Which calls of other sizes join a forward, padded to its longest rows. Knows nothing of torch."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from interlace.engine.policy.cost import CostModel
from interlace.engine.policy.pending import DENOISE, Pending, length_of

_USUAL = 0.1  # of a forward's tokens may be padding where nothing was measured yet
_GAIN = 0.98  # of the seconds apart: what is nearer to them is noise
_FEARED = 1.5  # times as long as predicted: what a forward that was not measured may take

Fits = Callable[[str, int, int], bool]  # the shape of the longest rows, rows, tokens: is there room?


@dataclass(frozen=True, slots=True)
class _MixedForward:
    """One that is being put together."""

    calls: tuple[Pending, ...]
    rows: int
    tokens: int
    longest: float
    shape: str

    @classmethod
    def of(cls, head: Pending) -> Self:
        return cls((head,), head.rows, head.tokens, length_of(head), head.shape)

    def with_call(self, call: Pending) -> Self:
        longer = length_of(call) > self.longest
        return replace(
            self,
            calls=(*self.calls, call),
            rows=self.rows + call.rows,
            tokens=self.tokens + call.tokens,
            longest=max(self.longest, length_of(call)),
            shape=call.shape if longer else self.shape,
        )

    def grown(self, calls: Sequence[Pending], fits: Fits) -> Self:
        """With all of these that there is room for."""
        made = self
        for call in calls:
            more = made.with_call(call)
            made = more if fits(more.shape, more.rows, more.tokens) else made
        return made

    @property
    def padding(self) -> float:
        """Of its tokens."""
        return 1 - self.tokens / (self.rows * self.longest)


class SizeMixing:
    """Decides by a most share of padding (`tolerance`), or by what forwards were measured to take (auto)."""

    def __init__(self, tolerance: float | Literal["auto"], cost: CostModel | None) -> None:
        """Without costs, nothing is asked of them."""
        self._measured = tolerance == "auto" and cost is not None
        self._tolerance = _USUAL if tolerance == "auto" else tolerance
        self._cost = cost

    def group(self, head: Pending, others: Sequence[Pending], fits: Fits) -> list[Pending]:
        """The calls of `head`'s forward: those of its size first, each in the order given, then of other sizes."""
        sizes: dict[Hashable, list[Pending]] = {}
        for call in others:
            if call.places != head.places:
                sizes.setdefault(call.places, []).append(call)
        equal = _MixedForward.of(head).grown([call for call in others if call.places == head.places], fits)
        if not sizes:
            return list(equal.calls)
        parts = sorted(sizes.values(), key=lambda calls: abs(length_of(calls[0]) - length_of(head)))
        grown = self._by_cost if self._measured and head.stage == DENOISE else self._by_padding
        return list(grown(equal, parts, fits).calls)

    def _by_padding(self, equal: _MixedForward, parts: Sequence[Sequence[Pending]], fits: Fits) -> _MixedForward:
        """All that keep padding within the tolerance, unless it was measured that they had better run apart."""
        made = equal
        for call in (call for part in parts for call in part):
            more = made.with_call(call)
            within = call.stage != DENOISE or more.padding <= self._tolerance + 1e-9
            made = more if within and fits(more.shape, more.rows, more.tokens) else made
        if made is equal or self._cost is None or not self._cost.is_packed_known(made.shape, made.rows):
            return made
        apart = self._apart(made)
        return made if apart is None or self._pays(made, apart, 1.0) else equal

    def _by_cost(self, equal: _MixedForward, parts: Sequence[Sequence[Pending]], fits: Fits) -> _MixedForward:
        """The usual ones; then size by size, as long as one forward is predicted to be done sooner than two."""
        made = self._by_padding(equal, parts, fits)
        for part in parts:
            seconds, taken = self._seconds(made), {call.request_id for call in made.calls}
            more = made.grown([call for call in part if call.request_id not in taken], fits)
            joining = more.calls[len(made.calls) :]
            if seconds is None or not joining or more.padding <= self._tolerance + 1e-9:  # those are decided
                continue
            assert self._cost is not None
            alone = self._cost.known_seconds(joining[0].shape, sum(call.rows for call in joining))
            if alone is not None and self._joins(more, seconds + alone):
                made = more
        return made

    def _seconds(self, made: _MixedForward) -> float | None:
        """As measured; None where it was not."""
        assert self._cost is not None
        if len({call.places for call in made.calls}) == 1:
            return self._cost.known_seconds(made.shape, made.rows)
        known = self._cost.is_packed_known(made.shape, made.rows)
        return self._cost.packed_seconds(made.shape, made.rows) if known else None

    def _joins(self, more: _MixedForward, apart: float) -> bool:
        """Whether that forward is the better one; where it was not measured, whether it may be tried."""
        assert self._cost is not None
        if self._cost.is_packed_known(more.shape, more.rows):
            return self._pays(more, apart, _GAIN)
        together = self._cost.packed_seconds(more.shape, more.rows)
        feared = None if together is None else _FEARED * together
        return feared is not None and (feared <= apart or self._cost.may_try(more.shape, more.rows, feared, apart))

    def _apart(self, made: _MixedForward) -> float | None:
        """Seconds of a forward for each of its sizes."""
        assert self._cost is not None
        rows: dict[tuple[Hashable, str], int] = {}
        for call in made.calls:
            rows[call.places, call.shape] = rows.get((call.places, call.shape), 0) + call.rows
        each = [self._cost.seconds(shape, count) for (_, shape), count in rows.items()]
        return None if None in each else sum(seconds or 0.0 for seconds in each)

    def _pays(self, made: _MixedForward, apart: float, share: float) -> bool:
        """Whether it takes less than `share` of the seconds apart, or may be tried once more."""
        assert self._cost is not None
        together = self._cost.packed_seconds(made.shape, made.rows)
        pays = together is not None and together <= share * apart
        return pays or self._cost.may_pack_again(made.shape, made.rows, apart)
