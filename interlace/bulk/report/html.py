"""`report.html`: one page with all images of a run, their parameters, failures and charts. Needs nothing from outside.

What comes from rows reaches the page as JSON that can't end its script element, and is put in place as text only.
"""

import base64
import html
import io
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from interlace.bulk.made import noun
from interlace.bulk.output.disk import replace_file
from interlace.bulk.output.stores import read_stored
from interlace.bulk.report.summary import percentile, seconds_of
from interlace.media.stills import picture_of

PAGE = "report.html"
MAX_INLINE = 500  # images whose thumbnails are in the page; with more, it refers to the files
MAX_SHOWN = 20_000  # images in the gallery; evenly chosen where there are more

_THUMBNAIL = 256  # pixels
_HIDDEN = {"id", "index", "file", "sha256", "size_bytes", "encoding", "request_key", "timing", "start", "end", "offset"}
_TOP = {"prompt", "seed", "width", "height"}
_HOLE = re.compile(r"\{\{(\w+)\}\}")

Record = Mapping[str, Any]
T = TypeVar("T")


def write_page(folder: Path, records: Sequence[Record], failures: Iterable[Record], summary: Record) -> Path | None:
    """Returns the page's path, or None where there is nothing to show."""
    listed = list(failures)
    if not records and not listed:
        return None
    replace_file(folder / PAGE, render_page(folder, records, listed, summary).encode(errors="replace"))
    return folder / PAGE


def render_page(folder: Path, records: Sequence[Record], failures: Sequence[Record], summary: Record) -> str:
    shown = _Evenly(records, MAX_SHOWN)
    constant, in_shards = _common(shown)
    # A page can't refer to what is inside a shard.
    inlined = set(_Evenly(range(len(shown)), MAX_INLINE)) if in_shards or len(shown) <= MAX_INLINE else set()
    items = (_item(folder, record, constant, inline=number in inlined) for number, record in enumerate(shown))
    failed = map(_failed_item, failures[:MAX_SHOWN])
    left_out = f" · {len(shown):,} of {len(records):,} shown" if len(shown) < len(records) else ""
    what = noun(records[0]) if records else "images"
    holes = {
        "what": what,
        "title": html.escape(f"{summary.get('model', 'run')} · {len(records):,} {what}{left_out}"),
        "tiles": "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{value}</dd></div>" for name, value in _tiles(summary, what)
        ),
        "facts": html.escape(
            " · ".join(f"{name} {value}" for name, value in constant.items() if value not in (None, ""))
        ),
        "charts": "".join(_charts(records, what)),
        "data": f"[{','.join(map(_script_safe, chain(items, failed)))}]",
        "interlace": html.escape(str(summary.get("interlace", ""))),
    }
    template = files("interlace.bulk.report").joinpath(PAGE).read_text(encoding="utf-8")
    return _HOLE.sub(lambda hole: holes[hole[1]], template)  # one pass: what fills a hole has no holes


def _script_safe(value: object) -> str:
    """JSON inside a script element: nothing in it can close the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class _Evenly(Generic[T]):
    """So many items of a sequence or, where it has more, evenly chosen ones. Takes them anew every time."""

    def __init__(self, items: Sequence[T], count: int) -> None:
        self._items, self._step = items, max(1.0, len(items) / count)
        self._count = min(len(items), count)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (self._items[int(number * self._step)] for number in range(self._count))


def _common(records: Iterable[Record]) -> tuple[dict[str, Any], bool]:
    """Parameters that all images share, which are told once; and whether any image is in a shard."""
    constant: dict[str, Any] | None = None
    in_shards = False
    for record in records:
        if constant is None:
            constant = {name: value for name, value in record.items() if name not in _HIDDEN | _TOP | {"shard"}}
        constant = {name: value for name, value in constant.items() if record.get(name) == value}
        in_shards |= "shard" in record
    return constant or {}, in_shards


def _item(folder: Path, record: Record, constant: Mapping[str, Any], *, inline: bool) -> dict[str, Any]:
    item: dict[str, Any] = {"n": str(record["file"]), "p": str(record.get("prompt", "")), "s": record.get("seed")}
    if "width" in record:
        item["w"], item["h"] = record["width"], record.get("height")
    if "shard" in record:
        item["t"] = record["shard"]
    else:
        item["f"] = quote(str(record["file"]))
    seconds = seconds_of(record)
    if seconds is not None:
        item["d"] = round(seconds, 3)
    own = {name: value for name, value in record.items() if name not in _HIDDEN | _TOP | {"shard"} | constant.keys()}
    if own:
        item["o"] = own
    if inline and (thumbnail := _thumbnail(folder, record)):
        item["i"] = thumbnail
    return item


def _failed_item(failure: Record) -> dict[str, Any]:
    name = failure.get("name") or failure.get("id") or failure.get("where")
    own = {key: failure[key] for key in ("where", "attempts") if failure.get(key)}
    reason = f"{failure.get('type', 'error')}: {failure.get('error', '')}"
    return {"n": str(name), "p": str(failure.get("prompt") or ""), "e": reason, "o": own}


def _thumbnail(folder: Path, record: Record) -> str | None:
    try:
        image = picture_of(read_stored(folder, record), str(record["file"]), 2 * _THUMBNAIL)
        image.thumbnail((_THUMBNAIL, _THUMBNAIL), reducing_gap=2.0)
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=80)
    except (OSError, ValueError):
        return None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _tiles(summary: Record, what: str) -> list[tuple[str, str]]:
    """The figures at the top; those that are not known are left out."""
    seconds = summary.get("seconds_per_image") or {}
    memory = [summary[name] for name in ("peak_device_bytes", "peak_rss_bytes") if name in summary]
    found: list[tuple[str, object, Callable[[Any], str]]] = [
        ("made", summary.get("done"), "{:,}".format),
        ("there before", summary.get("already_done") or None, "{:,}".format),
        ("failed", summary.get("failed"), "{:,}".format),
        ("left", summary.get("left") or None, "{:,}".format),
        (f"{what}/s", summary.get("throughput") or None, "{:.3g}".format),
        (f"seconds {_each(what)}, p50", seconds.get("p50"), "{:.3g}".format),
        ("p95", seconds.get("p95"), "{:.3g}".format),
        ("p99", seconds.get("p99"), "{:.3g}".format),
        ("rows a forward", summary.get("rows_per_forward"), "{:.2f}".format),
        ("forwards saved", summary.get("forwards_saved"), "{:,}".format),
        ("peak memory", memory[0] if memory else None, lambda size: f"{size / 2**30:.2f} GiB"),
        ("total seconds", summary.get("seconds"), "{:,.1f}".format),
    ]
    return [(name, form(value)) for name, value, form in found if value is not None]


_WIDTH, _HEIGHT, _LEFT, _FLOOR = 520, 190, 40, 158  # of a chart, in its own units
_BINS, _POINTS = 32, 120


def _charts(records: Sequence[Record], what: str) -> Iterable[str]:
    seconds = sorted(value for record in records if (value := seconds_of(record)) is not None)
    if len(seconds) > 1 and seconds[-1] > 0:
        yield _figure(f"Seconds {_each(what)}", f"{what} by the seconds they took", _histogram(seconds, what))
    means = ((record.get("timing") or {}).get("mean_rows") for record in records)
    rows = array("d", (float(value) for value in means if value))
    if len(rows) > 1:
        yield _figure("Rows a forward", f"mean rows of {_each(what)}'s forwards, in the order of the rows", _line(rows))


def _each(what: str) -> str:
    """One of them, with its article."""
    return "an image" if what == "images" else f"a {what.removesuffix('s')}"


def _figure(title: str, caption: str, drawing: str) -> str:
    head = f'<figure><figcaption><b>{title}</b> {caption}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    return f'{head} aria-label="{title}: {caption}">{drawing}</svg></figure>'


def _histogram(ordered: Sequence[float], what: str) -> str:
    # A few stragglers would press all others into one bar: the last bar holds whatever is beyond.
    high = min(ordered[-1], 2 * percentile(ordered, 0.99)) or ordered[-1]
    low = 0.0 if ordered[0] < high / 2 else ordered[0]
    width = (high - low) / _BINS or 1.0
    counts = [0] * _BINS
    for value in ordered:
        counts[min(_BINS - 1, max(0, int((value - low) / width)))] += 1
    step = (_WIDTH - _LEFT - 10) / _BINS
    top = max(counts)
    bars = [
        f'<rect x="{_LEFT + at * step:.1f}" y="{_FLOOR - count / top * (_FLOOR - 14):.1f}" width="{step - 1.5:.1f}" '
        f'height="{count / top * (_FLOOR - 14):.1f}"><title>{_shown(low + at * width)} to '
        f"{_shown(low + (at + 1) * width)} s: {count:,} {what}</title></rect>"
        for at, count in enumerate(counts)
        if count
    ]
    return _axes(top, low, high, "s") + "".join(bars)


def _line(values: Sequence[float]) -> str:
    size = max(1, -(-len(values) // _POINTS))
    means = [sum(part) / len(part) for start in range(0, len(values), size) if (part := values[start : start + size])]
    top = max(means)
    step = (_WIDTH - _LEFT - 10) / max(1, len(means) - 1)
    points = [
        f"{_LEFT + number * step:.1f},{_FLOOR - mean / top * (_FLOOR - 14):.1f}" for number, mean in enumerate(means)
    ]
    return _axes(top, 1, len(values), "") + f'<polyline points="{" ".join(points)}"/>'


def _axes(top: float, low: float, high: float, unit: str) -> str:
    texts = [
        (_LEFT - 6, 18, "end", _shown(top)),
        (_LEFT - 6, _FLOOR, "end", "0"),
        (_LEFT, _HEIGHT - 12, "start", f"{_shown(low)} {unit}"),
        (_WIDTH - 10, _HEIGHT - 12, "end", f"{_shown(high)} {unit}"),
    ]
    words = [f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text.strip()}</text>' for x, y, anchor, text in texts]
    return f'<path d="M{_LEFT} 10V{_FLOOR + 0.5}H{_WIDTH - 10}"/>' + "".join(words)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
