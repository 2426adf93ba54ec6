"""Measured seconds of forwards by shape and rows, and from them how many rows a forward should take. No torch.

Kept on disk, so that a model that ran on this machine before is known from the first forward on.
"""

import json
import logging
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypedDict

from interlace.python.recent import Recent

logger = logging.getLogger("interlace.engine")

_KEPT = 9  # samples of one shape and row count; their lower quartile counts: other programs only ever add time
_ENOUGH = 3  # samples after which a row count is known
_WORTH = 0.03  # gains below this are noise: the smaller forward wins, so that older requests end sooner
_STALE_AFTER = 8  # observations of a shape after which its plans are made anew
_LOOK_AGAIN_EVERY = 8  # forwards of a row count that is known: machines get busy, and idle again
_PLAN_AFTER = 8  # forwards of a shape in this process that are as wide as can be, before plans count
_LOOK_FIRST = 4  # the same for a shape that an earlier process measured
_TRY_EVERY = 8  # from then on one forward in so many may try another row count
_PACK_EVERY = 16  # forwards of several sizes that were found not to pay, until the next that may be tried
_LEARNING = 0.01  # of all seconds in forwards: what tries may cost more than the plan would
_PROMISING = 1.15  # times the seconds a row of the widest forward: what is dearer need not be tried again
_DEARER = 1.05  # times the seconds a row of wider forwards: narrower ones still would only be dearer
_MAX_PLANNED = 128  # rows
_MAX_SHAPES = 1024  # that are known, in memory and on disk: those that ran last


class ShapeCost(TypedDict):
    """What one shape's forwards cost: milliseconds by rows, and the rows of a forward when many wait."""

    ms: dict[str, float]
    best_rows: int


@dataclass
class _Curve:
    """Seconds by rows, of one shape: `samples` of this process, `earlier` ones as they were kept on disk."""

    samples: dict[int, deque[float]] = field(default_factory=dict)
    earlier: dict[int, float] = field(default_factory=dict)
    seconds_by_rows: dict[int, float] = field(default_factory=dict)
    plans: dict[int, int] = field(default_factory=dict)
    news: int = 0
    count: int = 0
    asked: int = 0  # for one more sample of a row count that is known
    kept_apart: int = 0  # forwards that packing was not worth
    widest_plan: int = 0  # for as many rows as were measured at most; 0: not made since the last news

    def observe(self, rows: int, seconds: float) -> None:
        kept = self.samples.setdefault(rows, deque(maxlen=_KEPT))
        kept.append(seconds)
        self.seconds_by_rows[rows] = sorted(kept)[len(kept) // 4]
        self.news, self.count = self.news + 1, self.count + 1
        if len(kept) <= _ENOUGH or self.news >= _STALE_AFTER:
            self.plans.clear()
            self.news = self.widest_plan = 0
            self._rescale()

    def remember(self, rows: int, seconds: float) -> None:
        """An earlier process measured this."""
        self.earlier[rows] = self.seconds_by_rows[rows] = seconds

    def _rescale(self) -> None:
        """Bring what was measured earlier to the machine's present speed, by the rows that were measured then and now.

        A machine that was busy then would else make every row count that was not met again look slow for ever.
        """
        both = [r for r in self.earlier if r in self.samples]
        if both and len(both) < len(self.earlier):
            scale = median(self.seconds_by_rows[r] / self.earlier[r] for r in both)
            for rows in self.earlier.keys() - self.samples.keys():
                self.seconds_by_rows[rows] = scale * self.earlier[rows]

    def described(self) -> ShapeCost:
        """For people. Of copies, since another thread may be measuring; the plan is made once for all who ask."""
        frozen = _Curve(dict(self.samples), dict(self.earlier), dict(self.seconds_by_rows))
        if not self.widest_plan:
            self.widest_plan = _planned(frozen, max(frozen.seconds_by_rows))
        ms = {str(rows): round(1000 * seconds, 3) for rows, seconds in sorted(frozen.seconds_by_rows.items())}
        return {"ms": ms, "best_rows": self.widest_plan}

    def known(self, rows: int) -> bool:
        return rows in self.earlier or self.fresh(rows)

    def fresh(self, rows: int) -> bool:
        return len(self.samples.get(rows, ())) >= _ENOUGH

    def seconds(self, rows: int) -> float:
        """Straight lines between what was measured; beyond it, never better than in proportion."""
        if rows in self.seconds_by_rows:
            return self.seconds_by_rows[rows]
        below = max((r for r in self.seconds_by_rows if r < rows), default=None)
        above = min((r for r in self.seconds_by_rows if r > rows), default=None)
        if below is None:
            assert above is not None
            return self.seconds_by_rows[above]  # as long as the smallest that was measured: it may be that flat
        if above is None:
            return self.seconds_by_rows[below] * rows / below
        share = (rows - below) / (above - below)
        return self.seconds_by_rows[below] + share * (self.seconds_by_rows[above] - self.seconds_by_rows[below])


class CostModel:
    """Learns from real forwards. A shape is any text that names module, sizes and precision."""

    def __init__(self, path: Path | None = None, *, settled: bool = False) -> None:
        """`path`: a file of an earlier run's measurements, read now and written by `save`.

        `settled`: what was observed is all there is; plans count at once, and nothing is tried out (for simulations).
        """
        self._path, self._settled = path, settled
        self._curves: Recent[str, _Curve] = Recent(_MAX_SHAPES)
        self._unsaved = 0
        self.seconds_observed = self.seconds_tried = 0.0  # of all forwards; what tries cost beyond the plans
        self._tries: dict[tuple[str, int], tuple[float, float]] = {}  # under way: what they may cost, and the plan
        if path is not None:
            self._load(path)

    def observe(self, shape: str, rows: int, seconds: float) -> None:
        """One forward of `shape` with so many rows took so long."""
        curve = self._curves[shape] = self._curves.get(shape) or _Curve()
        curve.observe(rows, seconds)
        self._unsaved += 1
        self.seconds_observed += seconds
        if (shape, rows) in self._tries:
            feared, otherwise = self._tries.pop((shape, rows))
            self.seconds_tried += max(seconds - otherwise, 0.0) - feared

    def know(self, shape: str, rows: int, seconds: float) -> None:
        """Take this as measured, as often as a row count must be seen before plans trust it."""
        for _ in range(_ENOUGH):
            self.observe(shape, rows, seconds)

    def wanted(self, shape: str, rows: int, *, free: bool = False) -> bool:
        """Whether to measure this once more: often at first, now and then for ever; always where that is `free`."""
        curve = self._curves.get(shape)
        if free or curve is None or len(curve.samples.get(rows, ())) < _KEPT:
            return True
        curve.asked += 1
        return curve.asked % _LOOK_AGAIN_EVERY == 0

    def seconds(self, shape: str, rows: int = 1) -> float | None:
        """Predicted seconds of one forward; None for a shape that never ran."""
        curve = self._curves.get(shape)
        return curve.seconds(rows) if curve is not None and curve.seconds_by_rows else None

    def best_rows(self, shape: str, available: int) -> int:
        """How many of `available` rows the next forward should take, so that all of them are done soonest.

        Among plans that are equal within the noise, the one with the smallest forwards: the oldest request ends first.
        A new shape runs as wide as it can. Now and then a forward tries a row count that this process has not measured
        and that may pay, or all rows, as long as all tries together cost less than a hundredth of the time.
        """
        curve = self._curves.get(shape)
        if curve is None or (curve.count < (_LOOK_FIRST if curve.earlier else _PLAN_AFTER) and not self._settled):
            return available
        available = min(available, _MAX_PLANNED)
        if available not in curve.plans:
            curve.plans[available] = _trusted_plan(curve, available)
        planned = curve.plans[available]
        if not self._settled and curve.count % _TRY_EVERY == _TRY_EVERY - 1:
            tried = _unmeasured(curve, available) or available  # a plan of narrow forwards must see wide ones again
            if tried != planned and self._afford(shape, tried, curve.seconds(planned) * tried / planned):
                return tried
        return planned

    def widest(self, shape: str, available: int) -> int:
        """As `best_rows`, by what is known now: nothing is tried."""
        curve = self._curves.get(shape)
        return available if curve is None or not curve.seconds_by_rows else _trusted_plan(curve, available)

    def _afford(self, shape: str, rows: int, otherwise: float) -> bool:
        """Whether to try such a forward, whose rows would take `otherwise` seconds as planned.

        What it may cost, at most, counts as spent until it is seen what it did.
        """
        return self._spend(shape, rows, max(self._curves[shape].seconds(rows) - otherwise, 0.0), otherwise)

    def _spend(self, shape: str, rows: int, dearer: float, otherwise: float) -> bool:
        if self.seconds_tried + dearer > _LEARNING * self.seconds_observed:
            return False
        self.seconds_tried += dearer
        self._tries[shape, rows] = dearer, otherwise
        return True

    def packed_seconds(self, shape: str, rows: int) -> float | None:
        """Of rows of several sizes, padded to `shape`: as measured, before that as if all were so large, or None."""
        packed = self.seconds(packed_shape(shape), rows)
        return self.known_seconds(shape, rows) if packed is None else packed

    def known_seconds(self, shape: str, rows: int) -> float | None:
        """As `seconds`, once some row count of that shape was measured often enough."""
        curve = self._curves.get(shape)
        return curve.seconds(rows) if curve is not None and any(map(curve.known, curve.seconds_by_rows)) else None

    def is_packed_known(self, shape: str, rows: int) -> bool:
        """Whether such forwards were measured often enough."""
        packed = self._curves.get(packed_shape(shape))
        return packed is not None and packed.known(rows)

    def may_try(self, shape: str, rows: int, feared: float, apart: float) -> bool:
        """Whether to see what packing costs: `feared` seconds at most, in place of `apart`; as `best_rows` tries."""
        return not self._settled and self._spend(packed_shape(shape), rows, max(feared - apart, 0.0), apart)

    def may_pack_again(self, shape: str, rows: int, apart: float) -> bool:
        """Whether to see once more what packing costs, which did not pay: its rows take `apart` seconds otherwise."""
        packed = self._curves.get(packed_shape(shape))
        if packed is None or self._settled:
            return False
        packed.kept_apart += 1
        return packed.kept_apart % _PACK_EVERY == 0 and self._afford(packed_shape(shape), rows, apart)

    def describe(self) -> dict[str, ShapeCost]:
        """By shape. From any thread, while another one observes."""
        curves = sorted(dict(self._curves).items(), key=lambda item: item[0])
        return {shape: curve.described() for shape, curve in curves if curve.seconds_by_rows}

    def save(self) -> None:
        """Keep what was learned; where that can't be written it is learned again the next time."""
        if self._path is None or not self._unsaved:
            return
        values = {
            shape: {str(rows): round(seconds, 7) for rows, seconds in curve.seconds_by_rows.items()}
            for shape, curve in self._curves.items()
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(values), encoding="utf-8")
            temporary.replace(self._path)
            self._unsaved = 0
        except OSError as error:
            logger.info("measured costs are not kept: %s", error)

    def _load(self, path: Path) -> None:
        try:
            for shape, seconds_by_rows in json.loads(path.read_text(encoding="utf-8")).items():
                for rows, seconds in seconds_by_rows.items():
                    self._curves.setdefault(shape, _Curve()).remember(int(rows), float(seconds))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s holds no measured costs (%s); measuring anew", path, error)
            self._curves.clear()


def _unmeasured(curve: _Curve, available: int) -> int | None:
    """A row count to try: what is available, then the powers of two below it.

    Not those that an earlier process saw to be far from paying, nor any below one whose rows proved to be dearer than
    those of wider forwards.
    """
    cheapest = curve.seconds(available) / available  # a row
    for rows in (available, *(2**i for i in reversed(range(available.bit_length())) if 2**i < available)):
        each = curve.seconds(rows) / rows
        if curve.fresh(rows):
            if each > _DEARER * cheapest:
                return None
            cheapest = min(cheapest, each)
        elif not curve.known(rows) or each * available <= _PROMISING * curve.seconds(available):
            return rows
    return None


def _trusted_plan(curve: _Curve, available: int) -> int:
    """As wide as it can be, unless what is known says that rows stop paying well below the widest that is known."""
    widest = max((rows for rows in curve.seconds_by_rows if curve.known(rows)), default=0)
    if widest >= available or 2 * _planned(curve, widest or 1) <= widest:
        return _planned(curve, available)
    return available


def _planned(curve: _Curve, available: int) -> int:
    """The rows of the first forward on the quickest way through `available` rows.

    Of all ways in equal forwards that are as quick as the quickest (dynamic programming over all ways), within the
    noise, that with the smallest forwards.
    """
    costs = [0.0] + [curve.seconds(rows) for rows in range(1, available + 1)]
    total, first = [0.0] * (available + 1), [0] * (available + 1)
    for rows in range(1, available + 1):
        total[rows], first[rows] = min((costs[taken] + total[rows - taken], taken) for taken in range(1, rows + 1))
    for taken in (rows for rows in range(1, available) if curve.known(rows)):
        if available // taken * costs[taken] + costs[available % taken] <= total[available] * (1 + _WORTH):
            return taken
    return first[available]


def packed_shape(shape: str) -> str:
    """By what the cost of forwards with rows of several sizes is known, the largest of which is `shape`."""
    return f"{shape}, packed" if shape else ""
