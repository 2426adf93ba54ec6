"""When a process that died is started again. Pure; no torch."""

_FIRST_S, _MOST_S = 0.25, 30.0
_QUICK_S = 30.0  # a process that lived as long has proved that it can
MAX_IN_A_ROW = 5  # deaths without having opened: then nobody waits for it any more, though it is tried on


class Backoff:
    """The first restart is at once; each that follows a short life waits twice as long."""

    def __init__(self) -> None:
        self.num_restarts = 0
        self.failures = 0  # to open, in a row
        self._short_lives = 0

    def opened(self) -> None:
        self.failures = 0

    def died(self, lived_s: float | None) -> float:
        """Seconds until it is started again; `lived_s` is None when it never opened."""
        self.num_restarts += 1
        if lived_s is None:
            self.failures += 1
        self._short_lives = 0 if lived_s is not None and lived_s > _QUICK_S else self._short_lives + 1
        return 0.0 if self._short_lives <= 1 else min(_FIRST_S * 2 ** (self._short_lives - 2), _MOST_S)

    @property
    def hopeless(self) -> bool:
        """Whether waiting for it makes no sense."""
        return self.failures >= MAX_IN_A_ROW
