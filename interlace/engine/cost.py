"""Measured seconds of forwards by shape and rows, and from them how many rows a forward should take. No torch.

Kept on disk, so that a model that ran on this machine before is known from the first forward on.
"""

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

logger = logging.getLogger("interlace.engine")

_KEPT = 9  # samples of one shape and row count; their lower quartile counts: other programs only ever add time
_ENOUGH = 3  # samples after which a row count is known
_WORTH = 0.03  # gains below this are noise: the smaller forward wins, so that older requests end sooner
_STALE_AFTER = 8  # observations of a shape after which its plans are made anew
_LOOK_AGAIN_EVERY = 8  # forwards of a row count that is known: machines get busy, and idle again
_PLAN_AFTER = 32  # forwards of a shape in this process that are as wide as can be, before plans count
_LOOK_FIRST = 4  # the same for a shape that an earlier process measured
_TRY_EVERY = 16  # from then on one forward in so many tries another row count, or what was seen not to pay
_PROMISING = 1.15  # times the seconds a row of the widest forward: what is dearer need not be tried again
_MAX_PLANNED = 128  # rows


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

    def observe(self, rows: int, seconds: float) -> None:
        kept = self.samples.setdefault(rows, deque(maxlen=_KEPT))
        kept.append(seconds)
        self.seconds_by_rows[rows] = sorted(kept)[len(kept) // 4]
        self.news, self.count = self.news + 1, self.count + 1
        if len(kept) <= _ENOUGH or self.news >= _STALE_AFTER:
            self.plans.clear()
            self.news = 0
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
        self._curves: dict[str, _Curve] = {}
        self._unsaved = 0
        if path is not None:
            self._load(path)

    def observe(self, shape: str, rows: int, seconds: float) -> None:
        """One forward of `shape` with so many rows took so long."""
        self._curves.setdefault(shape, _Curve()).observe(rows, seconds)
        self._unsaved += 1

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
        A new shape runs as wide as it can. One forward in sixteen tries a row count that this process has not measured
        and that may pay, or all rows.
        """
        curve = self._curves.get(shape)
        if curve is None or (curve.count < (_LOOK_FIRST if curve.earlier else _PLAN_AFTER) and not self._settled):
            return available
        available = min(available, _MAX_PLANNED)
        if not self._settled and curve.count % _TRY_EVERY == _TRY_EVERY - 1:
            return _unmeasured(curve, available) or available  # a plan of narrow forwards must see wide ones again
        if available not in curve.plans:
            curve.plans[available] = _trusted_plan(curve, available)
        return curve.plans[available]

    def packing_pays(self, shape: str, parts: Sequence[tuple[str, int]]) -> bool:
        """Whether one forward of rows of several sizes, padded to `shape`, beats one for each of its (shape, rows).

        True until both are known, and for one in sixteen of those that were found not to pay.
        """
        rows = sum(count for _, count in parts)
        packed = self._curves.get(packed_shape(shape))
        apart = [self.seconds(part, count) for part, count in parts]
        if packed is None or not packed.known(rows) or None in apart:
            return True
        if packed.seconds(rows) <= sum(seconds or 0.0 for seconds in apart):
            return True
        packed.kept_apart += 1
        return not self._settled and packed.kept_apart % _TRY_EVERY == 0

    def describe(self) -> dict[str, dict[str, Any]]:
        """By shape: measured milliseconds by rows, and the rows that a forward takes when many wait."""
        return {
            shape: {
                "ms": {
                    str(rows): round(1000 * curve.seconds_by_rows[rows], 3) for rows in sorted(curve.seconds_by_rows)
                },
                "best_rows": _planned(curve, max(curve.seconds_by_rows)),
            }
            for shape, curve in sorted(self._curves.items())
            if curve.seconds_by_rows
        }

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

    Not those that an earlier process saw to be far from paying: every try sets requests apart that ran together.
    """
    powers = [2**i for i in range(available.bit_length()) if 2**i < available]
    return next((rows for rows in (available, *reversed(powers)) if _worth_trying(curve, rows, available)), None)


def _worth_trying(curve: _Curve, rows: int, available: int) -> bool:
    if curve.fresh(rows):
        return False
    return not curve.known(rows) or curve.seconds(rows) * available <= _PROMISING * curve.seconds(available) * rows


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


def cost_file(device: str, model: str, dtype: str, version: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the costs of one model on one device lie: in INTERLACE_CACHE_DIR, XDG_CACHE_HOME or ~/.cache."""
    root = environ.get("INTERLACE_CACHE_DIR")
    base = Path(root) if root else Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interlace"
    name = "-".join(_safe(part) for part in (device, model, dtype, version))
    return base / "costs" / f"{name}.json"


def _safe(text: str) -> str:
    keep: Callable[[str], bool] = lambda c: c.isalnum() or c in "._"  # noqa: E731
    return "".join(c if keep(c) else "_" for c in text)[-80:]
