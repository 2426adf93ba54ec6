"""The page of a speaking server in a real browser: drop files, speak into a microphone, hear the answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright.sync_api import Browser, Locator, Page, expect
from stages.omni_models import save_qwen2_5_omni

from interlace import AsyncOmni
from interlace.media.sound import encode_wav
from interlace.stages.config import OmniStageConfig
from serve.live import Live, b64, png, running
from serve.page import WAIT_MS, chromium, running_browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium here; scripts/install-chromium installs it"),
]
_DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], name, { type }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true }));
}"""
_SECONDS = """(element) => new Promise((resolve, reject) => {
  if (element.readyState > 0) resolve(element.duration);
  element.onloadedmetadata = () => resolve(element.duration);
  element.onerror = () => reject(new Error("it can't be played"));
})"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    model = str(save_qwen2_5_omni(tmp_path_factory.mktemp("omni") / "tiny-omni"))
    short: dict[str, Any] = {"speech": {"do_sample": False, "max_tokens": 40}}
    config = OmniStageConfig(stage_id=0, stage_type="omni", model=model, engine_args=short,
                             default_sampling_params={"max_tokens": 12})  # fmt: skip
    omni = AsyncOmni(stages=[config])
    with running(omni, speaking=True) as server:
        yield server
    omni.omni.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as opened:
        yield opened


@pytest.fixture
def page(live: Live, browser: Browser) -> Iterator[Page]:
    """At the end: nothing on the console, no answer that is an error."""
    context = browser.new_context(permissions=["microphone"])
    context.set_default_timeout(WAIT_MS)
    opened, complaints = context.new_page(), []
    opened.on("console", lambda line: line.type in ("error", "warning") and complaints.append(line.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("response", lambda answer: answer.status >= 400 and complaints.append(f"{answer.status} {answer.url}"))
    opened.goto(live.url)
    expect(opened.locator("#voice option")).to_have_count(2)
    yield opened
    context.close()
    assert not complaints


def heard(page: Page, answer: int) -> float:
    """Seconds of an answer's sound, once it is whole."""
    sound: Locator = page.locator("article.assistant").nth(answer).locator("audio")
    expect(sound).to_have_count(1)
    seconds: float = sound.evaluate(_SECONDS)
    return seconds


def test_dropped_files_are_sent_and_the_answer_is_heard(page: Page, tmp_path: Path) -> None:
    page.evaluate(_DROP, ["star.png", "image/png", b64(png(56, 56))])
    page.evaluate(_DROP, ["tone.wav", "audio/wav", b64(encode_wav(np.sin(np.arange(8000) / 9), 16000))])
    expect(page.locator("#files li")).to_have_count(2)
    page.locator("#voice").select_option("Ethan")
    page.locator("#text").fill("what is it")
    page.locator("#send").click()
    assert heard(page, 0) > 0.02
    assert page.locator("article.assistant p").inner_text()
    mine = page.locator("article.user")
    assert mine.locator("img").evaluate("(one) => one.decode().then(() => one.naturalWidth)") == 56
    assert mine.locator("audio").evaluate(_SECONDS) == pytest.approx(0.5, abs=0.05)
    page.screenshot(path=str(tmp_path / "page.png"))
    assert page.request.get(page.url + "favicon.ico").headers["content-type"] == "image/svg+xml"


def test_what_is_spoken_into_a_microphone_is_sent(page: Page) -> None:
    page.locator("#record").click()
    expect(page.locator("#record")).to_have_text("Done")
    page.wait_for_timeout(3000)  # it is spoken so long
    page.locator("#record").click()
    expect(page.locator("#files li")).to_have_count(1)
    page.locator("#send").click()
    assert heard(page, 0) > 0.02
    assert page.locator("article.user audio").evaluate(_SECONDS) > 0.2
    page.locator("#text").fill("and again")
    page.keyboard.press("Enter")
    assert heard(page, 1) > 0.02


def test_without_aloud_there_is_text_alone(page: Page) -> None:
    page.locator("#aloud").uncheck()
    page.locator("#text").fill("write")
    page.locator("#send").click()
    expect(page.locator("article.assistant p")).not_to_be_empty(timeout=WAIT_MS)
    expect(page.locator("#send")).to_be_enabled(timeout=WAIT_MS)
    expect(page.locator("article.assistant audio")).to_have_count(0)
