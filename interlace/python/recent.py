"""Dicts that don't grow without end."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V]):
    """Holds the `most` entries that were set last; setting one again makes it the newest. Not thread-safe."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        while len(self) > self.most:
            del self[next(iter(self))]

    def setdefault(self, key: K, default: V) -> V:
        """As dict's; an entry that is there stays as old as it is."""
        if key not in self:
            self[key] = default
        return self[key]
