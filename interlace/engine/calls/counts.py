"""What the forwards of one engine come to in numbers, and what is said once in the log. No torch."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from interlace.engine.calls.call import ModuleCall
from interlace.engine.statistics import EngineSeconds, EngineStatistics

logger = logging.getLogger("interlace.engine")


class ForwardCounts:
    """Counted in the engine's thread; `statistics` may be asked for from any."""

    def __init__(self) -> None:
        self._forwards: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._widths: Counter[tuple[str, int]] = Counter()
        self._unfused: dict[str, str] = {}
        self._text_tokens = self._padded_tokens = 0
        self.seconds = 0.0
        self.verified = 0  # shared forwards that were compared with running alone
        self.halved = 0  # shared forwards that failed
        self.out_of_memory = 0

    def forward(self, label: str, rows: int, seconds: float) -> None:
        """One ran."""
        self._forwards[label] += 1
        self._rows[label] += rows
        self._widths[label, rows] += 1
        self.seconds += seconds

    def texts(self, calls: Sequence[ModuleCall]) -> None:
        """Of calls that share a forward: their texts, padded to the longest."""
        texts = [(call.rows, call.texts.length) for call in calls if call.texts is not None]
        tokens = max((length for _, length in texts), default=0) * sum(rows for rows, _ in texts)
        self._text_tokens += tokens
        self._padded_tokens += tokens - sum(rows * length for rows, length in texts)

    def inline(self, labels: Iterable[str]) -> None:
        """Calls that ran straight through in the middle of their request."""
        for label in labels:
            self._unshared(label, "it is called with gradients on, or in inference mode", logging.INFO)

    def alone(self, call: ModuleCall, reason: str) -> None:
        """Calls of this kind run alone."""
        label = f"{call.target.label} ({type(call.target.module).__name__})"
        self._unshared(label, reason, logging.INFO if call.unfusable else logging.WARNING)

    def statistics(self) -> EngineStatistics:
        """So far. Of copies, which are made in one go each: the engine's thread goes on counting meanwhile."""
        forwards, widths = dict(self._forwards), dict(self._widths)
        return EngineStatistics(
            forwards=forwards,
            rows=dict(self._rows),
            widths={name: {rows: n for (label, rows), n in widths.items() if label == name} for name in forwards},
            text_tokens=self._text_tokens,
            padded_tokens=self._padded_tokens,
            unfused=dict(self._unfused),
            verified=self.verified,
            halved=self.halved,
            out_of_memory=self.out_of_memory,
            seconds=EngineSeconds(forward=self.seconds),
        )

    def _unshared(self, label: str, reason: str, level: int) -> None:
        if label not in self._unfused:
            self._unfused[label] = reason
            logger.log(level, "%s is not shared between requests: %s", label, reason)
