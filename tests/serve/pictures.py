"""Makes the pictures of the page in docs/images: `PYTHONPATH=tests .venv/bin/python -m serve.pictures [FOLDER]`."""

import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect

from serve.live import Live
from serve.page import PHONE, WAIT_MS, Visit, running_browser, running_here, visit

_WIDE = {"viewport": {"width": 1280, "height": 860}}
_PICTURES = {"page": _WIDE, "page-dark": {**_WIDE, "color_scheme": "dark"}, "page-phone": PHONE}
_WORKS_S, _RESTS_S = 0.02, 0.15
_FIRST = (
    "a large red circle on a blue background",
    "a yellow star above a green square on a white background",
    "a pink heart on a black background",
)
_SECOND = ("a large green ring on a pink background", "a white cross on a red background")
_THIRD = ("a yellow moon on a purple background", "a cyan triangle on an orange background")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    with running_here(steps=None) as live, running_browser() as browser, _slowed(live):
        for name, options in _PICTURES.items():
            path = folder / f"{name}.png"
            _take(browser, live, options, path)
            print(f"{path}: {path.stat().st_size // 1000} kB")


@contextlib.contextmanager
def _slowed(live: Live) -> Iterator[None]:
    """Within, the engine rests most of the time: the demo model does dozens of steps while a browser draws one page."""
    done = threading.Event()

    def rest() -> None:
        while not done.wait(_WORKS_S):
            with live.paused():
                done.wait(_RESTS_S)

    thread = threading.Thread(target=rest)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _take(browser: Browser, live: Live, options: dict[str, object], path: Path) -> None:
    """Some pictures done, some far on, and some that joined them under way."""
    with visit(browser, live.url, **options) as someone:
        someone.ask("\n".join(_FIRST), steps=20)
        someone.wait_done(len(_FIRST))
        someone.ask("\n".join(_SECOND), steps=36)
        _wait_for_step(someone, 9)
        someone.ask("\n".join(_THIRD), steps=30)
        _wait_for_step(someone, 20)
        with live.paused():
            expect(someone.page.locator("#engine-now")).to_contain_text("share this pass", timeout=WAIT_MS)
            someone.page.mouse.move(0, 0)
            someone.page.screenshot(path=path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _wait_for_step(visitor: Visit, step: int) -> None:
    """Until the newest card is at that step, or a few further; looked at with every frame, not every second."""
    wanted = re.compile(f"Step ({'|'.join(str(step + more) for more in range(5))}) of ")
    visitor.page.locator(".card-state").first.filter(has_text=wanted).wait_for(timeout=WAIT_MS)


if __name__ == "__main__":
    main()
