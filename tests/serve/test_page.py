"""The page at `/`, in a real browser against a real server with the demo model."""

import io
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Route, expect

from serve.live import Live, until
from serve.page import LONG, PHONE, Visit, chromium, running_browser, running_here, visit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None and "CI" not in os.environ, reason="no Chromium here; scripts/install-chromium installs it"
    ),
]
CIRCLE = "a large red circle on a blue background"
STAR = "a yellow star above a green square on a white background"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with running_here() as server:
        yield server


@pytest.fixture(scope="module")
def url(live: Live) -> str:
    return f"{live.url}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as started:
        yield started


@pytest.fixture
def visitor(browser: Browser, url: str) -> Iterator[Visit]:
    with visit(browser, url, viewport={"width": 1280, "height": 860}) as someone:
        yield someone


def test_a_prompt_becomes_an_image_with_previews_on_the_way(visitor: Visit, live: Live) -> None:
    visitor.send_watched(live, lambda: visitor.ask(CIRCLE, steps=24))
    card = visitor.page.locator(".card").first
    visitor.wait_done(1)
    assert visitor.shown[0] == "sent", "the preview comes before the image"
    assert card.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [128, 128]
    expect(card).to_contain_text("24 steps")


def test_adapters_are_chosen_with_their_weights_and_come_back_with_the_settings(visitor: Visit) -> None:
    page = visitor.page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data or "") if "generations" in request.url else None)
    page.locator("#more summary").click()
    outline = page.locator("#loras li", has_text="outline")
    expect(outline).to_be_visible()
    outline.locator("[type=checkbox]").check()
    outline.locator("[type=range]").fill("0.8")
    visitor.ask(CIRCLE, steps=2)
    visitor.wait_done(1)
    assert json.loads(sent[0])["lora"] == "outline:0.8"
    outline.locator("[type=checkbox]").uncheck()
    visitor.ask(CIRCLE, steps=2)
    visitor.wait_done(2)
    assert "lora" not in json.loads(sent[1])


def test_every_line_is_a_prompt_and_the_engine_shows_what_they_share(visitor: Visit) -> None:
    visitor.ask(f"{CIRCLE}\n{STAR}\n\n", steps=LONG, n=2)
    expect(visitor.page.locator("#engine-now")).to_contain_text("4 requests share this pass")
    assert visitor.cards == [CIRCLE, CIRCLE, STAR, STAR]
    visitor.page.get_by_role("button", name="Cancel all").click()
    expect(visitor.page.locator(".card")).to_have_count(0)


def test_unticked_a_text_of_several_lines_is_one_prompt(visitor: Visit) -> None:
    visitor.page.get_by_label("Prompt", exact=True).fill(f"{CIRCLE}\n{STAR}")
    visitor.page.get_by_label("2 prompts, one a line").uncheck()
    expect(visitor.page.locator("#generate-text")).to_have_text("Generate")
    visitor.page.get_by_label("Steps").fill("1")
    visitor.page.locator("#generate").click()
    expect(visitor.page.locator(".card")).to_have_count(1)
    visitor.wait_done(1)


def test_cancelling_takes_the_request_off_the_server(visitor: Visit, url: str) -> None:
    visitor.ask(CIRCLE, steps=LONG, n=6)
    expect(visitor.page.locator("[data-state=sent]")).to_have_count(6)
    visitor.page.get_by_role("button", name="Cancel: ").first.click()
    expect(visitor.page.locator(".card")).to_have_count(5)
    visitor.page.get_by_role("button", name="Cancel all").click()
    expect(visitor.page.locator(".card")).to_have_count(0)
    expect(visitor.page.locator("#engine-now")).to_have_text("Idle")
    until(lambda: _num_live(url) == 0)
    visitor.complaints[:] = [line for line in visitor.complaints if "404" not in line]  # cancelled before it arrived


def test_more_requests_than_connections_run_at_once_and_leave_with_the_page(visitor: Visit, url: str) -> None:
    until(lambda: _num_live(url) == 0)  # of visitors before
    visitor.ask(CIRCLE, steps=LONG, n=10)
    expect(visitor.page.locator("[data-state=sent]")).to_have_count(10)
    assert _num_live(url) == 10
    visitor.page.goto("about:blank")
    until(lambda: _num_live(url) == 0)


def _num_live(url: str) -> int:
    with urllib.request.urlopen(url + "v1/stats") as answer:
        stats = json.load(answer)
    return len(stats["running"]) + len(stats["waiting"])


def test_an_image_of_the_gallery_can_be_edited(visitor: Visit) -> None:
    visitor.ask(CIRCLE)
    visitor.wait_done(1)
    visitor.page.locator(".card").first.hover()
    visitor.page.get_by_role("button", name=f"Edit: {CIRCLE}").click()
    expect(visitor.page.get_by_alt_text("Image 1 to edit")).to_be_visible()
    visitor.ask("make the background yellow")
    visitor.wait_done(2)
    assert visitor.cards == ["make the background yellow", CIRCLE]


def test_images_to_edit_are_chosen_dropped_or_pasted(visitor: Visit, tmp_path: Path) -> None:
    page = visitor.page
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    page.get_by_text("Edit", exact=True).click()
    page.locator("#file").set_input_files(tmp_path / "red.png")
    expect(page.locator("#thumbs img")).to_have_count(1)
    page.get_by_role("button", name="Remove image 1").click()
    expect(page.locator("#thumbs img")).to_have_count(0)
    page.get_by_text("Create", exact=True).click()
    for count, event in enumerate(("drop", "paste"), start=1):
        page.evaluate(_BRING, [event, list((tmp_path / "red.png").read_bytes())])
        if count == 2:
            page.get_by_role("button", name="Edit both together").click()
        expect(page.locator("#thumbs img")).to_have_count(count)
    page.evaluate(_BRING, ["drop", [1, 2, 3], "text/plain"])
    expect(page.locator("#toast-text")).to_have_text("Only PNG, JPEG and WebP images can be edited.")
    expect(page.locator("#thumbs img")).to_have_count(2)


_BRING = """([event, bytes, type = "image/png"]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "file", {type}));
  const options = {bubbles: true, cancelable: true};
  document.body.dispatchEvent(event === "drop"
    ? new DragEvent(event, {...options, dataTransfer: data})
    : new ClipboardEvent(event, {...options, clipboardData: data}));
}"""


def test_the_gallery_stays_and_gives_its_settings_and_files_back(visitor: Visit) -> None:
    page = visitor.page
    page.get_by_text("More settings").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Avoid").fill("stripes")
    page.get_by_text("Wide").click()
    visitor.ask(CIRCLE, steps=5)
    visitor.wait_done(1)
    visitor.open()
    page.get_by_role("button", name=f"Open: {CIRCLE}").click()
    for fact in ("160 × 112", "Seed7", "Steps5", "Avoidstripes"):
        assert fact in page.locator("#viewer-facts").inner_text().replace("\n", "")
    with page.expect_download() as download:
        page.locator("#viewer-download").click()
    assert download.value.suggested_filename == "a-large-red-circle-on-a-blue-background-7.png"
    with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as picture:
        assert (picture.format, picture.size) == ("PNG", (160, 112))
        assert CIRCLE in json.dumps(picture.info), "the file carries its prompt"
    page.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    assert page.get_by_label("Prompt", exact=True).input_value() == CIRCLE
    assert page.get_by_label("Seed").input_value() == "7"
    assert page.get_by_label("Steps").input_value() == "5"
    assert page.get_by_label("Wide").is_checked()


def test_removing_can_be_undone(visitor: Visit) -> None:
    visitor.ask(CIRCLE)
    visitor.wait_done(1)
    visitor.page.get_by_role("button", name=f"Open: {CIRCLE}").click()
    visitor.page.get_by_role("button", name="Remove").click()
    expect(visitor.page.locator(".card")).to_have_count(0)
    visitor.page.get_by_role("button", name="Undo").click()
    visitor.wait_done(1)
    visitor.page.get_by_role("button", name="Clear").click()
    visitor.open()
    expect(visitor.page.get_by_text("What should it draw?")).to_be_visible()


def test_all_of_it_goes_by_keyboard(visitor: Visit) -> None:
    page, keys = visitor.page, visitor.page.keyboard
    _tab_to(visitor, "prompt")
    keys.type(CIRCLE)
    _tab_to(visitor, "steps")
    keys.press("Home")
    _tab_to(visitor, "prompt", "Shift+Tab")
    keys.press("Control+Enter")
    visitor.wait_done(1)
    page.locator("#clear").focus()
    keys.press("Tab")
    assert _focused(visitor, "aria-label") == f"Open: {CIRCLE}"
    keys.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    keys.press("ArrowRight")
    keys.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.get_by_role("button", name=f"Open: {CIRCLE}")).to_be_focused()  # where it was
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"


def _focused(visitor: Visit, attribute: str) -> str | None:
    return visitor.page.evaluate("name => document.activeElement.getAttribute(name)", attribute)


def _tab_to(visitor: Visit, name: str, key: str = "Tab") -> None:
    for _ in range(40):
        if _focused(visitor, "id") == name:
            return
        visitor.page.keyboard.press(key)
    raise AssertionError(f"{key} never reaches {name}")


def test_every_control_has_a_name(visitor: Visit) -> None:
    visitor.ask(CIRCLE)
    visitor.wait_done(1)
    unnamed = visitor.page.evaluate(_UNNAMED)
    assert unnamed == []


_UNNAMED = """() => [...document.querySelectorAll("button, a, input, textarea, summary, progress, img, canvas")]
  .filter(e => !e.ariaLabel && !e.ariaHidden && !e.textContent.trim() && !e.labels?.length && !e.hasAttribute("alt"))
  .map(e => e.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser: Browser, url: str, scheme: str) -> None:
    with visit(browser, url, color_scheme=scheme) as someone:
        names = ("ink", "ink-soft", "danger", "paper", "sheet", "well")
        read = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name)"
        colours = {name: _luminance(someone.page.evaluate(read, name)) for name in names}
    for text in ("ink", "ink-soft", "danger"):
        for ground in ("paper", "sheet", "well"):
            low, high = sorted((colours[text], colours[ground]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{text} on {ground} (WCAG 2.2, 1.4.3)"


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_phone_shows_all_of_it(browser: Browser, url: str) -> None:
    with visit(browser, url, **PHONE) as someone:
        page = someone.page
        someone.ask(STAR)
        someone.wait_done(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name=f"Open: {STAR}").tap()
        expect(page.locator("#viewer-image")).to_be_in_viewport()
        image, prompt = page.locator("#viewer-image").bounding_box(), page.locator("#viewer-prompt").bounding_box()
        assert image["y"] + image["height"] <= prompt["y"], "the text lies below the image"
        page.get_by_role("button", name="Close").tap()
        expect(page.locator("#viewer")).to_be_hidden()
        page.get_by_role("button", name=f"Open: {STAR}").tap()
        page.get_by_role("button", name="Edit this image").tap()
        expect(page.get_by_label("What to change")).to_be_focused()
        expect(page.get_by_label("What to change")).to_be_in_viewport()


def test_what_users_write_is_never_markup(visitor: Visit) -> None:
    nasty = "<img src=x onerror=document.title='owned'><b>circle</b>"
    visitor.ask(nasty)
    visitor.wait_done(1)
    visitor.page.get_by_role("button", name="Open: <img").click()
    assert visitor.page.locator("#viewer-prompt").inner_text() == nasty
    assert visitor.cards == [nasty]
    assert visitor.page.title() == "Interlace"


def test_a_refusal_shows_the_servers_words_and_can_be_tried_again(visitor: Visit) -> None:
    message = "prompt is too long: got 900 tokens, expected at most 512; shorten it"
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": "prompt", "code": None}})
    visitor.page.route("**/v1/images/generations", lambda route: route.fulfill(status=400, body=body), times=1)
    visitor.ask(CIRCLE)
    expect(visitor.page.get_by_text(message)).to_be_visible()
    visitor.page.get_by_role("button", name="Try again").click()
    visitor.wait_done(1)
    visitor.complaints[:] = [line for line in visitor.complaints if "400" not in line]  # the browser's own note


def test_wrong_settings_are_named_beside_the_button(visitor: Visit) -> None:
    page = visitor.page
    page.locator("#generate").click()
    expect(page.get_by_role("alert")).to_have_text("Write what you would like to see.")
    assert _focused(visitor, "id") == "prompt"
    page.get_by_text("Other", exact=True).click()
    page.get_by_label("Width").fill("100")
    visitor.ask(CIRCLE)
    expect(page.get_by_role("alert")).to_contain_text("The width has to be a multiple of 16")
    page.get_by_label("Width").fill("96")
    visitor.ask(CIRCLE)
    visitor.wait_done(1)


def test_a_key_is_asked_for_once_and_sent_with_every_call(visitor: Visit) -> None:
    seen: list[str | None] = []

    def guard(route: Route) -> None:
        seen.append(route.request.headers.get("authorization"))
        if seen[-1] == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(status=401, body='{"error": {"message": "no key", "type": "authentication_error"}}')

    visitor.page.route("**/v1/**", guard)
    visitor.page.goto(visitor.url)
    visitor.page.get_by_label("API key").fill("sesame")
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.locator("#server-text")).to_have_text("demo")  # what it can take is in the form
    visitor.ask(CIRCLE)
    visitor.wait_done(1)
    assert seen[-1] == "Bearer sesame"
    assert visitor.page.evaluate("Object.keys(localStorage)") == []
    visitor.complaints[:] = [line for line in visitor.complaints if "401" not in line]
