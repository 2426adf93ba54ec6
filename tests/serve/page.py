"""What the tests of the page share: a real server on a real socket, and Debian's Chromium in front of it."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from interlace import AsyncOmni
from interlace.models.loader import load_model
from interlace.serve.jobs.models import editing_sibling
from serve.live import Live, running, until

_NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
WAIT_MS = 120_000  # two cores may be shared with other work
expect.set_options(timeout=WAIT_MS)
LONG = 20_000  # steps: the slider of a server of this process goes so far and further; no test waits for their end
# A line with a way back stays until that is taken, however slow the machine is.
_LINES_STAY = """
{ const later = window.setTimeout;
  window.setTimeout = (call, ms, ...more) => later(call, ms === 8000 ? 3_600_000 : ms, ...more); }
"""
# Resolves when all that the gallery has written so far is kept.
_KEPT = """() => new Promise((resolve) => {
  const asked = indexedDB.open("interlace", 1);
  asked.onsuccess = () => {
    const writing = asked.result.transaction("images", "readwrite");
    writing.oncomplete = () => (asked.result.close(), resolve());
    writing.objectStore("images").count();
  };
})"""
_NOTE_PREVIEWS = """() => {
  window.shown = [];
  new MutationObserver(() => document.querySelectorAll(".card").forEach((card) => {
    if (card.querySelector("img[src^='blob:']")?.checkVisibility()) window.shown.push(card.dataset.state);
  })).observe(document.getElementById("cards"), { subtree: true, childList: true, attributes: true });
}"""


def chromium() -> str | None:
    """The browser's path: `INTERLACE_CHROMIUM`, or the first of the usual names."""
    return os.environ.get("INTERLACE_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextlib.contextmanager
def running_server(log: Path) -> Iterator[str]:
    """The address of a server with the demo model, warm; `INTERLACE_TEST_URL` names one that already runs."""
    if "INTERLACE_TEST_URL" in os.environ:
        yield os.environ["INTERLACE_TEST_URL"].rstrip("/") + "/"
        return
    with log.open("w") as output:
        command = [sys.executable, "-m", "interlace", "serve", "--port", "0"]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield _when_warm(server, log)
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(60)
        server.kill()


@contextlib.contextmanager
def running_here(*, steps: int | None = LONG) -> Iterator[Live]:
    """A server of this process with the demo model, whose requests share all forwards that they can share. Its usual
    number of steps is `steps`; None: as the model has it."""
    model = load_model("demo")
    if steps is not None:
        model = replace(model, defaults={**model.defaults, "num_inference_steps": steps})
    sibling = editing_sibling(model)
    assert sibling is not None
    draw, edit = AsyncOmni(model, max_batch_rows=None), AsyncOmni(sibling)
    with running(draw, edit, **({} if steps is None else {"max_steps": 10 * steps})) as live:
        yield live
    draw.omni.close()
    edit.omni.close()


def _when_warm(server: subprocess.Popen[bytes], log: Path) -> str:
    """Its address."""
    end = time.monotonic() + 300
    while time.monotonic() < end and server.poll() is None:
        said = re.search(r"listening on (http://\S+)\n", log.read_text())
        if said and _answers(f"{said[1]}/health"):
            return f"{said[1]}/"
        time.sleep(0.3)
    raise AssertionError(f"the server did not get warm:\n{log.read_text()[-3000:]}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextlib.contextmanager
def running_browser(*more: str) -> Iterator[Browser]:
    """Headless Chromium, with `more` arguments. The sandbox is off: it needs rights that root in a container lacks."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", *more]
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments, timeout=WAIT_MS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A visitor's page; notes what must not happen: requests to other hosts, errors on the console."""

    url: str
    page: Page
    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MS)
        self.page.add_init_script(_LINES_STAY)
        self.page.on("request", lambda request: self._look_at(request.url))
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open()

    def _look_at(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data") and parts.netloc != urlsplit(self.url).netloc:
            self.outside.append(url)

    def open(self) -> None:
        """Anew where it is open already: the gallery is kept."""
        if self.page.url.startswith(self.url):
            self.page.evaluate(_KEPT)
        self.page.goto(self.url)
        expect(self.page.locator("#server-text")).not_to_have_text("Connecting")

    def ask(self, prompt: str, *, steps: int = 4, n: int = 1) -> None:
        """Fills the form and sends it."""
        self.page.get_by_label("Prompt", exact=True).or_(self.page.get_by_label("What to change")).fill(prompt)
        self.page.get_by_label("Steps").fill(str(steps))
        self.page.get_by_label("Images a prompt").fill(str(n))
        self.page.locator("#generate").click()

    def send_watched(self, live: Live, send: Callable[[], None]) -> None:
        """`send()` a request; the model begins when the page listens. `shown` tells what came."""
        self.page.evaluate(_NOTE_PREVIEWS)
        with live.paused():
            send()
            until(lambda: any(job.watchers for job in live.state.registry.live()))

    @property
    def shown(self) -> list[str]:
        """The states of cards whenever they had a picture to show, one after the other."""
        states: list[str] = self.page.evaluate("window.shown")
        return states

    def wait_done(self, count: int) -> None:
        expect(self.page.locator("[data-state=done]")).to_have_count(count)

    @property
    def cards(self) -> list[str]:
        """The prompts of the gallery, as shown."""
        return self.page.locator(".card-prompt").all_inner_texts()


@contextlib.contextmanager
def visit(browser: Browser, url: str, **options: object) -> Iterator[Visit]:
    """A fresh visitor. Fails on leaving when the page asked another host for something, or complained."""
    context: BrowserContext = browser.new_context(**options)  # type: ignore[arg-type]
    visitor = Visit(url, context.new_page())
    yield visitor
    context.close()
    assert visitor.outside == []
    assert visitor.complaints == []
