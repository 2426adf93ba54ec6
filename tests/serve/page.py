"""What the tests of the page share: a real server on a real socket, and Debian's Chromium in front of it."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
WAIT_MS = 120_000  # for pictures: two cores may be shared with other work


def chromium() -> str | None:
    """The browser's path: `INTERLACE_CHROMIUM`, or the first of the usual names."""
    return os.environ.get("INTERLACE_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextlib.contextmanager
def running_server(log: Path) -> Iterator[str]:
    """The address of a server with the demo model, warm; `INTERLACE_TEST_URL` names one that already runs."""
    if "INTERLACE_TEST_URL" in os.environ:
        yield os.environ["INTERLACE_TEST_URL"].rstrip("/") + "/"
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with log.open("w") as output:
        command = [sys.executable, "-m", "interlace", "serve", "--port", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait_until_warm(url, server, log)
        yield url
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()


def _wait_until_warm(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and server.poll() is None:
        if _answers(url + "health"):
            return
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
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
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
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self._look_at(request.url))
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open()

    def _look_at(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data") and parts.netloc != urlsplit(self.url).netloc:
            self.outside.append(url)

    def open(self) -> None:
        self.page.goto(self.url)
        expect(self.page.locator("#server-text")).not_to_have_text("Connecting")

    def ask(self, prompt: str, *, steps: int = 4, n: int = 1) -> None:
        """Fills the form and sends it."""
        self.page.get_by_label("Prompt", exact=True).or_(self.page.get_by_label("What to change")).fill(prompt)
        self.page.get_by_label("Steps").fill(str(steps))
        self.page.get_by_label("Images a prompt").fill(str(n))
        self.page.locator("#generate").click()

    def wait_done(self, count: int) -> None:
        expect(self.page.locator("[data-state=done]")).to_have_count(count, timeout=WAIT_MS)

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
