"""A side of a bench that answers, fails, dies or hangs, as it is asked. Imports next to nothing: it starts soon."""

import os
import threading
from collections.abc import Callable


def answering() -> Callable[[str], dict[str, object]]:
    """Open."""

    def answer(what: str) -> dict[str, object]:
        if what == "fail":
            raise ValueError("no such thing")
        if what == "die":
            os._exit(7)
        if what == "hang":
            threading.Event().wait()
        return {"is": what}

    return answer
