"""The page with a model of films and with one of sound: a length instead of nothing, previews, players."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from zoo.video import _stable_audio, _wan

from interlace import AsyncOmni
from interlace.models.loader import LoadedModel
from serve.live import running, until
from serve.page import chromium, running_browser, visit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None and "CI" not in os.environ, reason="no Chromium here; scripts/install-chromium installs it"
    ),
]
FILM = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 24, "max_sequence_length": 16}
SHOTS = os.environ.get("INTERLACE_SHOTS")  # a folder for pictures of the page, for people to look at


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as started:
        yield started


# Notes what is shown for a moment only, which a busy machine's test would miss.
_WATCH = """() => {
  new MutationObserver(() => {
    window.rateWasShown ||= document.querySelector("#figures").textContent.includes("films/s");
  }).observe(document.querySelector("#figures"), { subtree: true, childList: true });
}"""


def shot(page: object, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))  # type: ignore[attr-defined]


def test_a_film_is_drawn_with_previews_and_plays(browser: Browser) -> None:
    omni = AsyncOmni(LoadedModel("tiny-wan", _wan(), FILM))
    with running(omni) as server, visit(browser, f"{server.url}/", viewport={"width": 1280, "height": 860}) as visitor:
        page = visitor.page
        expect(page.get_by_label("Length")).to_have_value("0.56")
        expect(page.locator("#gallery-title")).to_have_text("Films")
        expect(page.get_by_text("What should it show?")).to_be_visible()
        expect(page.get_by_label("How many films a prompt")).to_be_visible()
        page.get_by_label("Length").fill("1")
        page.evaluate(_WATCH)
        page.get_by_label("Prompt", exact=True).fill("a red fox")
        visitor.send_watched(server, page.locator("#generate").click)
        card = page.locator(".card").first
        visitor.wait_done(1)
        assert visitor.shown[0] == "sent", "the preview comes before the film"
        until(lambda: page.evaluate("() => window.rateWasShown"))
        expect(card.locator("video")).to_be_visible()
        expect(page.locator("#count")).to_have_text("1 film")
        expect(card.locator("video")).to_have_js_property("videoWidth", 64)
        assert round(card.locator("video").evaluate("film => film.duration"), 1) == 1.1  # 17 frames at 16 a second
        expect(card.get_by_text("Edit", exact=True)).to_have_count(0)
        card.locator(".picture-open").click()
        expect(page.locator("#viewer-film")).to_be_visible()
        expect(page.locator("#viewer-image")).to_be_hidden()
        assert page.locator("#viewer-download").get_attribute("download").endswith(".mp4")  # type: ignore[union-attr]
        shot(page, "film-viewer")
        page.locator("#viewer-close").click()
        shot(page, "film-gallery")
    omni.omni.close()


def test_a_sound_is_heard(browser: Browser) -> None:
    omni = AsyncOmni(LoadedModel("tiny-audio", _stable_audio(), {"num_inference_steps": 2}))
    with running(omni) as server, visit(browser, f"{server.url}/", viewport={"width": 1280, "height": 860}) as visitor:
        page = visitor.page
        expect(page.locator("#shapes-field")).to_be_hidden()
        expect(page.locator("#gallery-title")).to_have_text("Sounds")
        page.get_by_label("Length").fill("2")
        page.get_by_label("Prompt", exact=True).fill("rain")
        page.locator("#generate").click()
        visitor.wait_done(1)
        page.locator(".picture-open").first.click()
        expect(page.locator("#viewer-sound")).to_be_visible()
        shot(page, "sound-viewer")
    omni.omni.close()
