"""The page of a GPU check, from its JSON object alone: whole or partial, of this machine or another. No torch."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import cast

Answer = Mapping[str, object]
Cells = Sequence[str]  # HTML
_HOLE = re.compile(r"\{\{(\w+)\}\}")
_BAR = 90  # pixels of the longest
_LOAD = "load/"


def write_report(result: Mapping[str, object], path: Path) -> None:
    """Replaces `path` by the page of `result`."""
    path.write_text(render(result), encoding="utf-8")


def render(result: Mapping[str, object]) -> str:
    """The page. What has not been measured is not on it, but in the table of parts."""
    parts = cast("Mapping[str, Answer]", result["parts"])
    machine = next(iter(_answers(parts, "machine")), {})
    name = str(machine.get("name", result.get("device", "")))
    tiny = " · tiny models: the figures mean nothing" if result.get("tiny") else ""
    versions = cast("Mapping[str, object]", result.get("versions", {}))
    facts = [f"{key} {value}" for key, value in {**_facts(machine), **versions}.items()]
    holes = {
        "title": html.escape(f"GPU check: {name}{tiny}"),
        "facts": html.escape(f"{result.get('date', '')} · {result.get('dtype', '')} · {' · '.join(facts)}. "
                             f"With {result.get('texts', '')}."),
        "command": html.escape(str(result.get("command", ""))),
        "tiles": "".join(f"<div><dt>{html.escape(label)}</dt><dd>{value}</dd></div>" for label, value in _tiles(parts)),
        "sections": "".join(_sections(parts)),
    }  # fmt: skip
    template = files("interlace.bench.gpu").joinpath("report.html").read_text(encoding="utf-8")
    return _HOLE.sub(lambda hole: holes[hole[1]], template)


def ratios(answers: Sequence[Answer], workload: str) -> dict[str, float]:
    """How many times as fast as each other way Interlace was: the fastest turns of both."""
    best = {}
    for one in answers:
        if one.get("workload") == workload and isinstance(one.get("seconds"), list) and not one.get("options"):
            best[str(one["side"])] = min(cast("list[float]", one["seconds"]))
    ours = best.get("interlace")
    return {side: seconds / ours for side, seconds in best.items() if ours and side != "interlace"}


def is_exact(answer: Answer) -> bool:
    """Alone to the bit; together no further from stock than four times what stock is from itself when it batches."""
    alone, together, own = _differences(answer)
    return alone["max"] == 0 and together["mean"] <= max(4 * own["mean"], 1e-5) and bool(answer["finite"])


def _differences(answer: Answer) -> list[Mapping[str, float]]:
    return [cast("Mapping[str, float]", answer[name]) for name in ("alone", "together", "stock_batched")]


def _tiles(parts: Mapping[str, Answer]) -> Iterator[tuple[str, str]]:
    exact = [one for one in _answers(parts, "exact") if "alone" in one]
    if exact:
        yield "families that are exact", f"{sum(map(is_exact, exact))} of {len(exact)}"
    for name, part in parts.items():
        if name.startswith(_LOAD) and (found := ratios(_of(part), "mixed")).get("stock"):
            yield f"{name.removeprefix(_LOAD)}, mixed, than one by one", f"{found['stock']:.2f}x"
    shares = [float(str(one["mfu"])) for one in _answers(parts, "forwards") if one.get("mfu") is not None]
    if shares:
        yield "best share of the peak", f"{max(shares):.0%}"


def _sections(parts: Mapping[str, Answer]) -> Iterator[str]:
    yield _section(
        "Is it exact?",
        "Three requests of 4, 3 and 2 steps. Largest and mean difference to stock alone, of values from 0 to 1, beside "
        "stock's own difference to itself in a list of three.",
        ("family", "alone", "together: max", "mean", "stock batched: max", "mean", "invariant", "rows", "exact"),
        (row for name, one in _named(parts, "exact") for row in _exact_row(name, one)),
    )
    yield _section(
        "How fast?",
        "The same requests one by one through stock, in static batches through stock, and through Interlace. The "
        "fastest turn of each counts; every way has a process of its own, one after the other.",
        ("family", "requests", "stock", "static", "Interlace", "than one by one", "than static", "rows"),
        (
            row
            for name, part in parts.items()
            if name.startswith(_LOAD)
            for row in _load_rows(name.removeprefix(_LOAD), _of(part))
        ),
    )
    yield _section(
        "With options, and adapters",
        "The step cache leaves calls out (lossy). Adapters: four, one a request.",
        ("family", "what", "seconds", "requests/s", "calls left out", "not shared"),
        (row for name, one in _named(parts, "load", "lora") for row in _option_row(name, one)),
    )
    yield _section(
        "What does a forward cost?",
        "Device time by rows, in one forward. TFLOP/s from counted operations; share of what the maker publishes for "
        "dense matrices; memory beside the weights.",
        ("family", "module", "mode", "pixels", "rows", "ms", "ms a row", "host ms", "TFLOP/s", "of peak", "MiB"),
        (row for name, one in _named(parts, "forwards") for row in _forward_row(name, one)),
    )
    yield _section(
        "Does the device wait?",
        "Mixed requests under the profiler: the time between the first and the last kernel in which none ran.",
        ("family", "way", "kernels", "seconds", "idle", "longest gap, ms"),
        (row for name, one in _named(parts, "load") for row in _idle_row(name, one)),
    )
    rows = ([_text(name), _status(part), f"{part['seconds']} s", _words(str(part["error"]) or _errors(part))]
            for name, part in parts.items())  # fmt: skip
    yield _section("Parts", "", ("part", "status", "took", ""), rows)


def _exact_row(name: str, one: Answer) -> Iterator[Cells]:
    if "alone" not in one:
        return
    alone, together, own = _differences(one)
    rows = cast("Mapping[str, float]", one["mean_rows"])
    yield [_text(name), f"{alone['max']:g}", f"{together['max']:.2g}", f"{together['mean']:.2g}", f"{own['max']:.2g}",
           f"{own['mean']:.2g}", _yes(bool(one["batch_invariant_equal"])), f"{max(rows.values(), default=0):.2f}",
           _yes(is_exact(one))]  # fmt: skip


def _load_rows(name: str, answers: Sequence[Answer]) -> Iterator[Cells]:
    longest = max((value for work in ("mixed", "uniform") for value in ratios(answers, work).values()), default=1.0)
    for workload in ("mixed", "uniform"):
        told = {str(one["side"]): one for one in answers
                if one.get("workload") == workload and "seconds" in one and "kernels" not in one
                and not one.get("options")}  # fmt: skip
        if not told:
            continue
        best = {side: f"{min(cast('list[float]', one['seconds'])):.2f} s" for side, one in told.items()}
        rows = cast("Mapping[str, float]", told.get("interlace", {}).get("mean_rows", {}))
        found = ratios(answers, workload)
        yield [_text(name), f"{next(iter(told.values()))['requests']} {workload}",
               *(best.get(side, "") for side in ("stock", "static", "interlace")),
               *(_bar(found.get(side), longest) for side in ("stock", "static")),
               f"{max(rows.values(), default=0):.2f}"]  # fmt: skip


def _option_row(name: str, one: Answer) -> Iterator[Cells]:
    options = cast("Mapping[str, object]", one.get("options") or {})
    if "kernels" in one or not isinstance(one.get("seconds"), list) or not (options or one.get("workload") == "lora"):
        return
    what = f"adapters {one['side']}" if one.get("workload") == "lora" else " ".join(map(str, options.values()))
    unfused = "; ".join(f"{kind}: {why}" for kind, why in cast("Mapping[str, str]", one.get("unfused", {})).items())
    seconds = min(cast("list[float]", one["seconds"]))
    yield [_text(name), _text(what), f"{seconds:.2f}", f"{one['requests_per_s']:.2f}",
           str(one.get("skipped", "")), _words(unfused)]  # fmt: skip


def _forward_row(name: str, one: Answer) -> Iterator[Cells]:
    if "ms" not in one:
        return
    peak = one.get("peak_bytes")
    yield [_text(name), *(_text(str(one[key])) for key in ("module", "mode", "pixels", "rows")), f"{one['ms']:.2f}",
           f"{one['ms_per_row']:.2f}", f"{one['host_ms']:.2f}", f"{one['tflops']:.1f}",
           "" if one.get("mfu") is None else f"{one['mfu']:.0%}",
           "" if peak is None else f"{int(str(peak)) / 2**20:.0f}"]  # fmt: skip


def _idle_row(name: str, one: Answer) -> Iterator[Cells]:
    if one.get("idle") is not None:
        yield [_text(name), _text(str(one["side"])), str(one["kernels"]), f"{one['seconds']:.2f}", f"{one['idle']:.1%}",
               f"{one['longest_gap_ms']:.1f}"]  # fmt: skip


def _section(title: str, words: str, head: Cells, rows: Iterable[Cells]) -> str:
    found = list(rows)
    if not found:
        return ""
    lines, before = [], ""
    for row in found:
        first = ' class="first"' if before and row[0] != before else ""
        before = row[0]
        cells = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row)
        lines.append(f"<tr{first}>{cells}</tr>")
    kinds = [' class="words"' if cell.startswith("<td") else "" for cell in found[0]]
    heads = "".join(f"<th{kind}>{html.escape(name)}</th>" for name, kind in zip(head, kinds, strict=True))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<h2>{html.escape(title)}</h2><p>{html.escape(words)}</p><div class="scroll">{table}</div>'


def _of(part: Answer) -> Sequence[Answer]:
    return cast("Sequence[Answer]", part["answers"])


def _answers(parts: Mapping[str, Answer], kind: str) -> list[Answer]:
    return [one for _, one in _named(parts, kind)]


def _named(parts: Mapping[str, Answer], *kinds: str) -> Iterator[tuple[str, Answer]]:
    """Every answer of the parts of these kinds, with the part's family."""
    for name, part in parts.items():
        kind, _, family = name.partition("/")
        if kind in kinds:
            yield from ((family, one) for one in _of(part))


def _facts(machine: Answer) -> dict[str, object]:
    hidden = {"side", "name", "took_s", "memory_bytes"}
    return {key: value for key, value in machine.items() if key not in hidden and value is not None}


def _errors(part: Answer) -> str:
    return "; ".join(str(one[key]) for one in _of(part) for key in ("error", "left_out") if key in one)


def _status(part: Answer) -> str:
    status = str(part["status"])
    return f'<span class="{"good" if status == "done" else "bad"}">{html.escape(status)}</span>'


def _yes(value: bool) -> str:
    return '<span class="good">yes</span>' if value else '<span class="bad">no</span>'


def _bar(value: float | None, longest: float) -> str:
    if value is None:
        return ""
    return f'<span class="bar" style="width:{_BAR * value / max(longest, 1e-9):.0f}px"></span>{value:.2f}x'


def _text(words: str) -> str:
    return html.escape(words)


def _words(words: str) -> str:
    return f'<td class="words">{html.escape(words)}</td>'
