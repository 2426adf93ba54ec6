"""Names in others' classes, modules and dicts that mean something else for as long as somebody needs it."""

import threading
from collections.abc import Callable, MutableMapping


class Wraps:
    """Counts who needs the wraps; with the last of them everything is as it was.

    `wrap_all` is called when the first one comes. What somebody else has replaced meanwhile is left as it is.
    """

    def __init__(self, *wrap_all: Callable[[], object]) -> None:
        self._wrap_all = list(wrap_all)
        self._users = 0
        self._lock = threading.RLock()
        self._restore: list[Callable[[], None]] = []

    def open(self) -> None:
        """One more needs them."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                for wrap in self._wrap_all:
                    wrap()

    def close(self) -> None:
        """One fewer does."""
        with self._lock:
            self._users -= 1
            while not self._users and self._restore:
                self._restore.pop()()

    def add(self, wrap: Callable[[], object]) -> None:
        """From now on `wrap` is called as well: at once where somebody needs the wraps."""
        with self._lock:
            self._wrap_all.append(wrap)
            if self._users:
                wrap()

    def replace(self, owner: object, name: str, new: object) -> None:
        """`owner.name` is `new` from now on."""
        had, old = name in vars(owner), vars(owner).get(name)
        setattr(owner, name, new)

        def restore() -> None:
            if vars(owner).get(name) is not new:
                return
            if had:
                setattr(owner, name, old)
            else:
                delattr(owner, name)

        self._keep(restore)

    def replace_item(self, items: MutableMapping[object, object], key: object, new: object) -> None:
        """`items[key]`, which is there, is `new` from now on."""
        old = items[key]
        items[key] = new

        def restore() -> None:
            if items.get(key) is new:
                items[key] = old

        self._keep(restore)

    def _keep(self, restore: Callable[[], None]) -> None:
        with self._lock:
            self._restore.append(restore)
