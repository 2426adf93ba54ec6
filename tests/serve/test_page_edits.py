"""Edits on the page: strength, a painted mask, before and after, variations side by side, and what the server warns of.

The editing model is image-to-image over the built-in weights: it has a strength, and what lies outside a mask is put
back by the server.
"""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from interlace import AsyncOmni
from interlace.models.loader import load_model
from serve.live import running
from serve.page import Visit, chromium, running_browser, visit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None and "CI" not in os.environ, reason="no Chromium here; scripts/install-chromium installs it"
    ),
]
CIRCLE = "a large red circle on a blue background"
RED = (220, 30, 35)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    draw = AsyncOmni(load_model("demo"))
    edit = AsyncOmni(load_model("demo", pipeline_class="FluxImg2ImgPipeline"))
    with running(draw, edit) as live:
        yield f"{live.url}/"
    draw.omni.close()
    edit.omni.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as started:
        yield started


@pytest.fixture
def editor(browser: Browser, url: str, tmp_path: Path) -> Iterator[Visit]:
    """A visitor with a red picture to edit."""
    Image.new("RGB", (96, 64), RED).save(tmp_path / "red.png")
    with visit(browser, url, viewport={"width": 1280, "height": 860}, accept_downloads=True) as someone:
        someone.page.get_by_text("Edit", exact=True).click()
        someone.page.locator("#file").set_input_files(tmp_path / "red.png")
        expect(someone.page.locator("#thumbs img")).to_have_count(1)
        yield someone


_KEEP_FORMS = """() => {
  const send = window.fetch;
  window.sent = [];
  window.fetch = (path, options) => {
    if (options?.body instanceof FormData) {
      const plain = [...options.body].map(([name, value]) => [name, value instanceof Blob ? value.type : value]);
      window.sent.push(Object.fromEntries(plain));
    }
    return send(path, options);
  };
}"""


def sent(page: Page, index: int) -> dict[str, str]:
    """The fields of a form that the page sent since `_KEEP_FORMS`; of files their type."""
    return page.evaluate("index => window.sent[index]", index)


def downloaded(page: Page) -> np.ndarray:
    """The picture of the open viewer."""
    with page.expect_download() as download:
        page.locator("#viewer-download").click()
    with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_strength_is_asked_for_in_edits_sent_and_taken_over(editor: Visit) -> None:
    page = editor.page
    page.evaluate(_KEEP_FORMS)
    strength = page.get_by_role("slider", name="Strength (how much may change)", exact=True)
    expect(strength).to_have_value("0.6")  # the pipeline's own
    strength.press("ArrowRight")
    editor.ask("a blue star", steps=4)
    editor.wait_done(1)
    assert sent(page, 0)["strength"] == "0.65"
    page.get_by_text("Create", exact=True).click()
    expect(strength).to_be_hidden()
    page.get_by_role("button", name="Open: a blue star").click()
    assert "Strength0.65" in page.locator("#viewer-facts").inner_text().replace("\n", "")
    page.get_by_role("button", name="Use these settings").click()
    expect(strength).to_have_value("0.65")


def test_what_lies_outside_a_painted_mask_stays(editor: Visit) -> None:
    page = editor.page
    page.evaluate(_KEEP_FORMS)
    page.get_by_role("button", name="Paint where to change it").click()
    page.get_by_label("Paint a part").select_option("the left half")
    expect(page.locator("#mask-said")).to_have_text("50% of the image may change.")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("button", name="Change all of it")).to_be_visible()
    page.get_by_role("slider", name="Strength (how much may change)").fill("1")
    editor.ask("a large white square on a black background", steps=4)
    editor.wait_done(1)
    assert sent(page, 0)["mask"] == "image/png"
    page.get_by_role("button", name="Open: a large white").click()
    picture = downloaded(page)
    assert picture.shape == (64, 96, 3)  # an edit has its image's shape
    assert (picture[:, 50:] == RED).all()
    assert np.abs(picture[:, :44] - RED).max() > 60
    assert "Changedthe painted part" in page.locator("#viewer-facts").inner_text().replace("\n", "")
    page.get_by_role("button", name="Use these settings").click()
    page.get_by_role("button", name="Change all of it").click()
    editor.ask("a blue star", steps=2)
    editor.wait_done(2)
    assert "mask" not in sent(page, 1)


def test_a_mask_is_painted_by_keyboard_alone(editor: Visit) -> None:
    page, keys = editor.page, editor.page.keyboard
    page.get_by_role("button", name="Paint where to change it").focus()
    keys.press("Enter")
    canvas = page.get_by_role("application", name="The image, to be painted on")
    expect(canvas).to_be_focused()
    expect(page.locator("#mask-said")).to_contain_text("Nothing is painted")
    keys.press("Space")
    expect(page.locator("#mask-said")).to_have_text("2% of the image may change.")
    keys.press("Shift+ArrowRight")
    keys.press("Shift+ArrowDown")
    expect(page.locator("#mask-said")).not_to_have_text("2% of the image may change.")
    keys.press("Control+z")
    keys.press("Control+z")
    expect(page.locator("#mask-said")).to_have_text("2% of the image may change.")
    keys.press("Delete")
    keys.press("ArrowUp")
    keys.press("ArrowUp")
    keys.press("Space")
    keys.press("Escape")
    expect(page.locator("#mask-dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Paint where to change it")).to_be_focused()
    expect(page.get_by_role("button", name="Change all of it")).to_be_hidden()


def test_a_mask_is_painted_by_pointer_erased_and_kept(editor: Visit) -> None:
    page, mouse = editor.page, editor.page.mouse
    page.get_by_role("button", name="Paint where to change it").click()
    expect(page.locator("#mask-canvas")).to_be_focused()  # it is all there
    box = page.locator("#mask-canvas").bounding_box()
    assert box

    def line(tool: str) -> None:
        page.get_by_text(tool, exact=True).click()
        mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
        mouse.down()
        mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] / 2, steps=4)
        mouse.up()

    line("Paint")
    painted = int(page.locator("#mask-said").inner_text().split("%")[0])
    assert 15 <= painted <= 25  # a stroke of a fifth of the height
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Only the painted part changes: paint again").click()
    expect(page.locator("#mask-said")).to_have_text(f"{painted}% of the image may change.")
    line("Erase")
    expect(page.locator("#mask-said")).not_to_have_text(f"{painted}% of the image may change.")
    page.get_by_role("button", name="Clear").last.click()
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("button", name="Change all of it")).to_be_hidden()


def test_an_edit_is_compared_with_the_image_before(editor: Visit) -> None:
    page = editor.page
    editor.ask("a blue star", steps=2, n=2)
    editor.wait_done(2)
    page.get_by_role("button", name="Open: a blue star").first.click()
    slider = page.get_by_role("slider", name="Before and after")
    expect(slider).to_have_attribute("aria-valuetext", "the image after")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "5% of the image before")
    expect(page.locator("#viewer-place")).to_have_text("1 of 2")
    slider.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "the image before")
    assert page.locator("#viewer-old").evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 0% 0px 0px)"
    expect(page.locator("#viewer-shown")).to_have_attribute("style", re.compile("--ratio"))  # the image has its place
    box = page.locator("#viewer-shown").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.up()
    expect(slider).to_have_attribute("aria-valuetext", "50% of the image before")
    page.keyboard.press("Escape")


def test_variations_lie_side_by_side(editor: Visit) -> None:
    page = editor.page
    page.get_by_text("Create", exact=True).click()
    editor.ask(CIRCLE, steps=2)
    editor.wait_done(1)
    page.get_by_role("button", name=f"Open: {CIRCLE}").click()
    expect(page.locator("#viewer-siblings")).to_be_hidden()
    page.get_by_role("button", name="Four variations").click()
    editor.wait_done(5)
    editor.open()  # they stay together
    page.get_by_role("button", name=f"Open: {CIRCLE}").first.click()
    page.get_by_role("button", name="Show 5 variations side by side").press("Enter")
    variations = page.get_by_role("list", name="Variations").get_by_role("button")
    expect(variations).to_have_count(5)
    expect(variations.nth(0)).to_have_attribute("aria-current", "true")
    expect(variations.nth(2)).to_have_attribute("aria-label", "Variation 3 of 5")
    variations.nth(2).press("Enter")
    expect(page.locator("#viewer-single")).to_be_visible()
    expect(page.locator("#viewer-place")).to_have_text("3 of 5")
    page.keyboard.press("Escape")


def test_a_prompt_that_is_too_long_is_said_beside_its_image(editor: Visit) -> None:
    page = editor.page
    page.get_by_text("Create", exact=True).click()
    editor.ask("a red circle " * 10, steps=1)
    editor.wait_done(1)
    words = "The prompt has 31 tokens and the model reads 24"
    expect(page.locator(".card .note")).to_contain_text(words)
    page.get_by_role("button", name="Open: a red circle").click()
    expect(page.locator("#viewer-notes")).to_contain_text(words)
    page.keyboard.press("Escape")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 2000])
def test_the_painter_and_the_viewer_fit_and_name_everything(
    browser: Browser, url: str, tmp_path: Path, theme: str, width: int
) -> None:
    Image.new("RGB", (96, 64), RED).save(tmp_path / "red.png")
    shots = Path(os.environ["INTERLACE_SCREENSHOTS"]) if "INTERLACE_SCREENSHOTS" in os.environ else tmp_path
    with visit(browser, url, viewport={"width": width, "height": 844}, color_scheme=theme) as someone:
        page = someone.page
        page.get_by_text("Edit", exact=True).click()
        page.locator("#file").set_input_files(tmp_path / "red.png")
        page.get_by_role("button", name="Paint where to change it").click()
        page.get_by_label("Paint a part").select_option("the middle")
        _fits(page, "#mask-dialog")
        page.screenshot(path=shots / f"mask-{theme}-{width}.png")
        page.get_by_role("button", name="Done").click()
        page.screenshot(path=shots / f"form-{theme}-{width}.png")
        someone.ask(CIRCLE, steps=2, n=2)
        someone.wait_done(2)
        page.get_by_role("button", name=f"Open: {CIRCLE}").first.click()
        page.get_by_role("slider", name="Before and after").fill("40")
        _fits(page, "#viewer")
        page.screenshot(path=shots / f"viewer-{theme}-{width}.png")
        page.locator("#viewer-siblings").click()
        _fits(page, "#viewer")
        page.screenshot(path=shots / f"grid-{theme}-{width}.png")
        page.keyboard.press("Escape")


def _fits(page: Page, dialog: str) -> None:
    """Nothing of it sticks out sideways, and every control that shows has a name."""
    assert page.locator(dialog).evaluate("one => one.scrollWidth <= one.clientWidth")
    assert page.locator(dialog).evaluate(
        """dialog => [...dialog.querySelectorAll("button, input, select, a[href], canvas")]
        .filter((one) => one.checkVisibility() && !one.ariaLabel && !one.labels?.length && !one.textContent.trim())
        .map((one) => one.outerHTML)"""
    ) == []  # fmt: skip
