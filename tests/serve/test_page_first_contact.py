"""The page as somebody meets it who has never seen it: nothing is lost or done unseen, everything has a name."""

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from serve.page import PHONE, Visit, chromium, running_browser, running_server, visit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None and "CI" not in os.environ, reason="no Chromium here; scripts/install-chromium installs it"
    ),
]
_IS_ABOVE = """([one, other]) => {
  const [upper, lower] = [one, other].map((name) => document.querySelector(name).getBoundingClientRect().top);
  return upper < lower;
}"""
CIRCLE = "a large red circle on a blue background"
_DROP = """([name, type, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("serve") / "log.txt") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as started:
        yield started


@pytest.fixture(scope="module")
def met(browser: Browser, url: str) -> Iterator[Visit]:
    """A visitor who has two images."""
    with visit(browser, url, viewport={"width": 1280, "height": 860}, accept_downloads=True) as someone:
        someone.ask(CIRCLE, steps=2, n=2)
        someone.wait_done(2)
        yield someone


def png(colour: str) -> list[int]:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, format="PNG")
    return list(buffer.getvalue())


def drop(page: Page, name: str, kind: str, data: list[int]) -> None:
    page.evaluate(_DROP, [name, kind, data])


def test_back_closes_the_viewer_and_the_page_stays(met: Visit) -> None:
    met.page.get_by_role("button", name=f"Open: {CIRCLE}").first.click()
    expect(met.page.locator("#viewer")).to_be_visible()
    met.page.go_back()
    expect(met.page.locator("#viewer")).to_be_hidden()
    expect(met.page.locator("[data-state=done]")).to_have_count(2)


def test_the_seed_is_in_sight_and_using_settings_says_so(met: Visit) -> None:
    page = met.page
    expect(page.get_by_label("Seed")).to_be_visible()
    page.get_by_role("button", name=f"Open: {CIRCLE}").first.click()
    page.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Seed")).not_to_have_value("")
    seed = page.get_by_label("Seed").input_value()
    expect(page.locator("#toast-text")).to_have_text(f"Settings taken over, with seed {seed}")
    page.locator("#toast-undo").click()
    expect(page.get_by_label("Seed")).to_have_value("")


def test_undo_can_be_clicked_while_the_viewer_is_open(met: Visit) -> None:
    met.page.get_by_role("button", name=f"Open: {CIRCLE}").first.click()
    met.page.get_by_role("button", name="Remove").click()
    expect(met.page.locator("[data-state=done]")).to_have_count(1)
    met.page.get_by_role("button", name="Undo").click()
    expect(met.page.locator("[data-state=done]")).to_have_count(2)
    met.page.keyboard.press("Escape")


def test_all_images_come_in_one_archive(met: Visit, tmp_path: Path) -> None:
    with met.page.expect_download() as download:
        met.page.get_by_role("button", name="Download all").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2
        for name in archive.namelist():
            assert Image.open(io.BytesIO(archive.read(name))).size == (128, 128)


def test_what_is_no_picture_is_refused_at_once(met: Visit) -> None:
    drop(met.page, "notes.txt", "text/plain", [65, 66])
    expect(met.page.locator("#toast-text")).to_have_text("Only PNG, JPEG and WebP images can be edited.")
    drop(met.page, "broken.png", "image/png", [65, 66])
    expect(met.page.locator("#toast-text")).to_have_text("Only PNG, JPEG and WebP images can be edited.")
    assert met.page.locator("[name=mode]:checked").get_attribute("value") == "create"


def test_a_second_picture_asks(met: Visit) -> None:
    page = met.page
    drop(page, "a.png", "image/png", png("red"))
    expect(page.locator("#thumbs img")).to_have_count(1)
    drop(page, "b.png", "image/png", png("blue"))
    expect(page.get_by_role("heading", name="There is an image to edit already")).to_be_visible()
    page.get_by_role("button", name="Keep the first").click()
    drop(page, "b.png", "image/png", png("blue"))
    page.get_by_role("button", name="Replace it").click()
    expect(page.locator("#thumbs img")).to_have_count(1)
    page.get_by_role("button", name="Remove image 1").click()
    page.get_by_text("Create", exact=True).click()


def test_an_image_of_the_gallery_is_dragged_to_the_edits(met: Visit) -> None:
    met.page.locator(".card img").first.drag_to(met.page.locator("#form"))
    expect(met.page.locator("#thumbs img")).to_have_count(1)
    met.page.get_by_role("button", name="Remove image 1").click()
    met.page.get_by_text("Create", exact=True).click()


def early(browser: Browser, url: str) -> tuple[Page, list[Route]]:
    """A page whose question what the model takes is held back, and that question."""
    page, held = browser.new_page(), list[Route]()
    page.route("**/info", lambda route: held.append(route))
    page.goto(url)
    while not held:
        page.wait_for_timeout(50)
    expect(page.get_by_label("Steps")).to_have_value("28")  # of no model that is known yet
    return page, held


def test_what_was_set_before_the_server_answered_stays_within_its_limits(browser: Browser, url: str) -> None:
    page, held = early(browser, url)
    steps, width = page.get_by_label("Steps"), page.get_by_label("Width")
    steps.fill("7")
    page.get_by_text("Other", exact=True).click()
    width.fill("96")
    page.get_by_label("Height").fill("1000")
    held[0].continue_()
    expect(page.locator("#server-text")).to_have_text("demo")
    expect(steps).to_have_value("7")
    expect(page.locator("#steps-out")).to_have_text("7")
    expect(page.get_by_label("How many images a prompt")).to_have_value("1")
    expect(width).to_have_value("96")
    expect(page.get_by_label("Height")).to_have_value("128")  # larger than the model draws
    expect(page.get_by_label("Prompt strength")).to_have_value("2")  # nobody touched it
    page.close()


def test_a_shape_that_was_chosen_stays_where_only_its_size_changes(browser: Browser, url: str) -> None:
    page, held = early(browser, url)
    page.get_by_text("Wide", exact=True).click()
    assert page.locator("[name=shape]:checked").get_attribute("value") != "160x112"
    held[0].continue_()
    expect(page.locator("#server-text")).to_have_text("demo")
    expect(page.locator("[name=shape][value='160x112']")).to_be_checked()
    page.close()


def test_a_prompt_survives_a_reload_and_earlier_ones_can_be_taken(met: Visit) -> None:
    page = met.page
    page.get_by_label("Prompt", exact=True).fill("half a thought")
    met.open()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("half a thought")
    page.get_by_label("Earlier prompts").select_option(CIRCLE)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(CIRCLE)


def test_the_built_in_model_says_what_it_knows(met: Visit) -> None:
    note = met.page.get_by_text("The built-in model only knows shapes")
    met.page.get_by_label("Prompt", exact=True).fill("a cat")
    expect(note).to_be_visible()
    met.page.get_by_label("Prompt", exact=True).fill(CIRCLE)
    expect(note).to_be_hidden()


def test_the_engine_folds_away_and_explains_itself_when_open(browser: Browser, url: str) -> None:
    with visit(browser, url) as someone:
        expect(someone.page.locator("#loom")).to_be_hidden()
        someone.page.get_by_role("button", name="Show").click()
        expect(someone.page.locator("#engine-why")).to_be_visible()
        someone.page.get_by_role("button", name="Hide").click()
        expect(someone.page.locator("#loom")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 2000])
def test_everything_has_a_name_and_fits(browser: Browser, url: str, theme: str, width: int) -> None:
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
    with visit(browser, url, **options) as someone:
        page = someone.page
        nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea, a[href]")]
            .filter((one) => one.checkVisibility() && !one.ariaLabel && !one.labels?.length && !one.textContent.trim())
            .map((one) => one.outerHTML)""")
        assert nameless == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        words = page.locator("body").inner_text().lower()
        assert not [word for word in ("batch", "forward", "cfg", "num_") if word in words]


def test_on_a_phone_the_pictures_come_first(browser: Browser, url: str) -> None:
    with visit(browser, url, **PHONE) as someone:
        someone.ask(CIRCLE, steps=1)
        someone.wait_done(1)
        assert someone.page.evaluate(_IS_ABOVE, [".card", "#form"])
        expect(someone.page.get_by_role("link", name="New image")).to_be_visible()
