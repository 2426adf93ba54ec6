"""bulk/report.py, summary.py, html.py, export.py: figures that add up, and one page that holds whatever a row says."""

import html.parser
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_generator import BROKEN, FakeGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from interlace.bulk import progress
from interlace.bulk.input.rows import Rows
from interlace.bulk.output.sink import ModelId, Sink, SinkOptions, read_manifest
from interlace.bulk.plan import RunOptions
from interlace.bulk.progress import ProgressView, Tally
from interlace.bulk.report import html as page_module
from interlace.bulk.report.export import export_parquet
from interlace.bulk.report.html import render_page, write_page
from interlace.bulk.report.summary import forwards_figures, memory_figures, peak_memory, percentile, seconds_per_image
from interlace.bulk.run import run_bulk
from interlace.cli import main as cli
from interlace.cli import session
from interlace.media.encode import Encoding
from interlace.request import SamplingParams

NASTY = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!-- <script>",
    '" onerror="alert(3)',
    "<img src=x onerror=alert(4)>",
    "{{data}} {{title}}",
    "a\u2028b\u2029c &amp; & 圆 'quote'",
]


def run(folder: Path, prompts: list[str], faults: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    rows = Rows.from_prompts(prompts, SamplingParams())
    sink_options = options.pop("sink", SinkOptions())
    with Sink(folder, options=sink_options) as sink:
        run_bulk(rows, sink, RunOptions(model=ModelId(model="fake"), **options), lambda: FakeGenerator(faults))
    return dict(json.loads((folder / "summary.json").read_text()))


class Page(html.parser.HTMLParser):
    """What a browser would find in the page, as far as it matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data

    @property
    def items(self) -> list[dict[str, Any]]:
        return list(json.loads(self.scripts[0]))


def record(name: str, **facts: Any) -> dict[str, Any]:
    timing = {"total_s": 2.0, "queue_s": 0.5, "mean_rows": 3.0}
    return {"id": name, "file": f"{name}.png", "size_bytes": 1, "prompt": name, "seed": 1, "timing": timing, **facts}


def test_whatever_a_prompt_says_is_text(tmp_path: Path) -> None:
    run(tmp_path, NASTY, {"000001": BROKEN})
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("script") == 2
    assert page.handlers == page.addresses == []
    assert sorted(item["p"] for item in page.items) == sorted(NASTY)
    data = page.scripts[0]
    assert not re.search("[<>&\u2028\u2029]", data)


@settings(max_examples=50)
@given(prompt=st.text(), name=st.text(), value=st.text())
def test_no_text_leaves_its_place(prompt: str, name: str, value: str) -> None:
    failure = {"name": name, "prompt": prompt, "error": value, "type": name}
    text = render_page(Path(), [record(name, prompt=prompt, negative_prompt=value)], [failure], {"model": value})
    page = Page(text.encode(errors="replace").decode())
    assert page.tags.count("script") == 2
    assert page.tags.count("main") == 1
    assert page.handlers == []
    assert len(page.items) == 2


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    run(tmp_path, ["a", "b"])
    text = (tmp_path / "report.html").read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert all(item["i"].startswith("data:image/webp;base64,") for item in Page(text).items)


def test_many_images_are_referred_to_and_few_are_inlined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_INLINE", 3)
    monkeypatch.setattr(page_module, "MAX_SHOWN", 5)
    for number in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / f"i {number}.png")
    records = [record(f"i {number}") for number in range(8)]
    few = Page(render_page(tmp_path, records[:3], [], {})).items
    assert all("i" in item for item in few)
    many = Page(render_page(tmp_path, records[:5], [], {})).items
    assert [item["f"] for item in many] == [f"i%20{number}.png" for number in range(5)]
    assert not any("i" in item for item in many)
    too_many = render_page(tmp_path, records, [], {})
    assert len(Page(too_many).items) == 5
    assert "5 of 8 shown" in too_many


def test_images_in_shards_have_thumbnails_too(tmp_path: Path) -> None:
    run(tmp_path, ["a", "b"], sink=SinkOptions(encoding=Encoding("webp"), layout="webdataset"))
    items = Page((tmp_path / "report.html").read_text()).items
    assert all("i" in item and item["t"] == "shard-000000.tar" and "f" not in item for item in items)
    assert (tmp_path / "contact_sheet.jpg").exists()


def test_an_image_that_is_gone_leaves_the_others(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    items = Page(render_page(tmp_path, [record("a"), record("b")], [], {})).items
    assert ["i" in item for item in items] == [True, False]


def test_what_all_images_share_is_told_once(tmp_path: Path) -> None:
    records = [record("a", steps=4, guidance_scale=1.0), record("b", steps=4, guidance_scale=2.0)]
    text = render_page(tmp_path, records, [], {})
    assert "steps 4" in text
    assert [item["o"] for item in Page(text).items] == [{"guidance_scale": 1.0}, {"guidance_scale": 2.0}]


def test_nothing_to_show_is_no_page(tmp_path: Path) -> None:
    assert write_page(tmp_path, [], [], {}) is None
    assert not (tmp_path / "report.html").exists()


def test_charts_take_any_figures(tmp_path: Path) -> None:
    for seconds in ([0.0, 0.0], [1.0, 1.0], [1e-6, 1e6], [5.0] * 200, list(range(1000))):
        records = [record(str(n), timing={"total_s": s, "mean_rows": s}) for n, s in enumerate(seconds)]
        text = render_page(tmp_path, records, [], {})
        assert "NaN" not in text
        assert text.count("<figure") == text.count("</figure>")


def test_the_summary_says_what_became_of_the_rows(tmp_path: Path) -> None:
    summary = run(tmp_path, [f"p{n}" for n in range(10)] + [""], {"000003": BROKEN, "000004": ValueError("odd")})
    assert (summary["done"], summary["failed"], summary["bad_rows"]) == (8, 3, 1)
    assert summary["failed_by_kind"] == {"RequestError": 1, "ValueError": 1, "bad row": 1}
    assert summary["throughput"] == pytest.approx(8 / summary["seconds"], rel=0.01)
    assert summary["images_per_s"] >= summary["throughput"]
    assert set(summary["seconds_per_image"]) == {"p50", "p95", "p99", "mean"}
    assert summary["peak_rss_bytes"] > 10_000_000


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7.0


def test_seconds_leave_out_the_wait_in_the_queue() -> None:
    assert seconds_per_image([record("a"), {"file": "old.png"}]) == dict.fromkeys(("p50", "p95", "p99", "mean"), 1.5)
    assert seconds_per_image([]) == {}


def test_forwards_saved_are_rows_less_forwards() -> None:
    engine = {"forwards": {"transformer": 10, "vae": 2}, "rows": {"transformer": 40, "vae": 8}}
    alone = forwards_figures({"engine": engine})
    assert alone == {"rows_per_forward": 4.0, "forwards": 12, "forwards_saved": 36}
    assert forwards_figures({"processes": [{"engine": engine}, {"engine": engine}]})["forwards_saved"] == 72
    assert forwards_figures({}) == {}


def test_memory_is_told_in_bytes() -> None:
    assert peak_memory()["peak_rss_bytes"] > 10_000_000


def test_the_manifest_as_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(tmp_path, ["a", "b"], export_parquet=True)
    table = parquet.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert [row["prompt"] for row in table] == ["a", "b"]
    lines = {line["id"]: line for line in read_manifest(tmp_path)}
    assert table[0]["seed"] == lines["000000"]["seed"]
    assert table[0]["timing_num_steps"] == 4


def test_parquet_holds_columns_of_any_kind(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [
        record("a", seed=2**64 - 1, scale=1, odd="x", flag=True, deep={"b": [1]}),
        record("b", seed=1, scale=2.5, odd=3, flag=None),
    ]
    first, second = parquet.read_table(export_parquet(tmp_path, records)).to_pylist()
    assert (first["seed"], first["scale"], first["odd"], first["flag"]) == (2**64 - 1, 1.0, "x", True)
    assert (second["scale"], second["odd"], second["deep"]) == (2.5, "3", None)
    assert json.loads(first["deep"]) == {"b": [1]}
    assert parquet.read_table(export_parquet(tmp_path, [])).num_rows == 0


def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium")
    if browser_path is None:
        pytest.skip("needs chromium")
    run(tmp_path, [*NASTY, *(f"number {number}" for number in range(193))], {"000009": BROKEN})
    asked: list[str] = []
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.locator("#count").inner_text() == "200 in all"
        assert page.locator(".item .prompt").nth(0).inner_text() == NASTY[0]
        page.fill("#query", "圆 QUOTE")
        assert page.locator(".item .prompt").all_inner_texts() == [NASTY[-1]]
        page.fill("#query", "no such thing")
        assert page.locator(".none").is_visible()
        page.fill("#query", "")
        page.select_option("#state", "failed")
        assert page.locator(".item .well").all_inner_texts() == [f"RequestError: {BROKEN}"]
        page.select_option("#state", "made")
        page.locator(".item").nth(1).click()
        assert page.locator("dialog .full").inner_text() == NASTY[1]
        page.keyboard.press("ArrowRight")
        assert page.locator("dialog .full").inner_text() == NASTY[2]
        # `wait_for_function` would have to evaluate its text again in the page, which the page's policy forbids
        source = page.locator("dialog img").evaluate("async image => { await image.decode(); return image.src }")
        assert source == (tmp_path / "000002.png").as_uri()  # the full file beside the page
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="hidden")
        browser.close()
    assert said == []
    assert all(url.startswith((tmp_path.as_uri(), "data:")) for url in asked)


def test_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    file = io.StringIO()
    tally = Tally(40, done=9, failed=1)
    with ProgressView(tally, lambda: 3.25, Console(file=file, force_terminal=False)) as view:
        view.ended("a")
        view.message("[b] failed: [red]not markup[/red]")
    first, second = file.getvalue().splitlines()
    assert re.fullmatch(r"10/40 images, [\d.]+ images/s, \d+:\d\d:\d\d left, 3.2 rows a forward, 1 failed", first)
    assert second == "[b] failed: [red]not markup[/red]"
    assert "\x1b" not in file.getvalue()


def test_progress_is_a_bar_on_a_terminal() -> None:
    file = io.StringIO()
    tally = Tally(40, done=9, failed=1)
    with ProgressView(tally, lambda: 3.25, Console(file=file, force_terminal=True, width=120)) as view:
        view.update()
        view.message("something")
    assert "10/40" in file.getvalue()
    assert "1 failed" in file.getvalue()


def test_many_messages_end_in_silence() -> None:
    file = io.StringIO()
    with ProgressView(Tally(1), lambda: None, Console(file=file, force_terminal=False)) as view:
        for number in range(500):
            view.message(f"message {number}")
    assert len(file.getvalue().splitlines()) == 21
    assert "failures.jsonl lists every failure" in file.getvalue()


def test_memory_of_many_processes_is_added_up() -> None:
    assert memory_figures({"processes": [{"peak_rss_bytes": 5}, {"peak_rss_bytes": 6}]})["peak_rss_bytes"] == 11


def command(folder: Path, *flags: str, monkeypatch: pytest.MonkeyPatch, faults: dict[str, Any] | None = None) -> int:
    """The whole command over three prompts in a file, with a stub in the model's place."""
    file = folder.parent / "three.txt"
    file.write_text("a\nb\nc\n")
    monkeypatch.setattr(session, "open_generator", lambda *arguments: FakeGenerator(faults))
    return cli.run(["t2i", "--prompts-file", str(file), "--output-dir", str(folder), *flags])


def test_the_flags_reach_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--output-format", "jpeg", "--output-quality", "50", "--output-layout", "webdataset", "--shard-size", "2"]
    assert command(tmp_path, *flags, "--export-parquet", monkeypatch=monkeypatch) == 0
    shown = {path.name for path in tmp_path.iterdir()}
    assert {"shard-000000.tar", "shard-000001.tar", "manifest.parquet", "report.html"} <= shown
    assert {record["encoding"] for record in read_manifest(tmp_path)} == {"jpeg-50"}
    assert command(tmp_path, *flags, "--verify", monkeypatch=monkeypatch) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["already_done"] == 3


def test_retry_failed_as_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, "--no-html", monkeypatch=monkeypatch, faults={"000001": BROKEN}) == 1
    assert not (tmp_path / "report.html").exists()
    assert command(tmp_path, "--retry-failed", monkeypatch=monkeypatch) == 0
    assert len(list(read_manifest(tmp_path))) == 3
    assert command(tmp_path, "--retry-failed", monkeypatch=monkeypatch) == 0
    assert "nothing to retry" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--output-quality", "90"], "png has no quality"),
        (["--output-format", "gif"], "gif"),
        (["--output-layout", "zip"], "zip"),
        (["--output-layout", "webdataset", "--shard-size", "0"], "at least 1"),
        (["--max-retries", "-1"], "at least 0"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert command(tmp_path / "out", *flags, monkeypatch=monkeypatch) == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
