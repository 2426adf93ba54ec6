"""What a bulk run tells its user: on stderr before and after the work, and in files beside the images."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from interlace import __version__
from interlace.bulk.made import noun
from interlace.bulk.output.disk import why_not_written
from interlace.bulk.output.sink import FAILURES, Sink
from interlace.bulk.plan import Survey
from interlace.bulk.progress import Tally
from interlace.bulk.report.contact_sheet import write_contact_sheet
from interlace.bulk.report.export import export_parquet as write_parquet
from interlace.bulk.report.html import write_page
from interlace.bulk.report.summary import forwards_figures, memory_figures, num_cut, read_summary, seconds_per_image

T = TypeVar("T")
# What a run that makes nothing leaves as it was.
_OF_THE_LAST_IMAGES = ("throughput", "images_per_s", "rows_per_forward", "forwards", "forwards_saved")


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended. `stopped_by` is the signal's number; `fatal` is why it could not go on."""

    num_failed: int
    stopped_by: int | None = None
    fatal: str | None = None

    @property
    def exit_status(self) -> int:
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 1 if self.num_failed or self.fatal else 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def announce(found: Survey, sink: Sink, what: str) -> None:
    """Before the work: what is wrong with the input, and what there is already; `what` it is."""
    for bad in found.bad[:5]:
        _say(f"{bad.where}: {bad.error}")
    if len(found.bad) > 5:
        _say(f"... and {len(found.bad) - 5} more bad rows, see {sink.folder / FAILURES}")
    if found.num_done:
        _say(f"{found.num_done} of {len(found.names)} {what} are there already")
    if found.num_changed:
        _say(f"{found.num_changed} {what} are made again: their parameters, the model or the format changed since")


def report(
    found: Survey,
    tally: Tally,
    sink: Sink,
    model: str,
    facts: Mapping[str, Any],
    result: Result,
    *,
    html: bool = True,
    export_parquet: bool = False,
    every_row: bool = True,
) -> None:
    """After the work: the files that tell of it, and a few lines for the user. A full disk is told and does no harm.

    They tell of all images that are there: those of `found` first where these are the whole input.
    """
    records = sink.images.records_sorted(found.names) if every_row else sink.images.records()
    left = found.num_to_do - tally.done - tally.failed
    seconds = _tried(sink.folder, lambda: seconds_per_image(records)) or {}
    cut = _tried(sink.folder, lambda: num_cut(records)) or 0
    summary = summarize(found, tally, sink, seconds, model, facts, result) | {"prompts_cut": cut}
    if not tally.done:
        earlier = read_summary(sink.folder)
        summary |= {name: earlier[name] for name in _OF_THE_LAST_IMAGES if name in earlier}
    title = f"{model} · {len(records)} {noun(records[0]) if len(records) else tally.what}"
    written = [_tried(sink.folder, lambda: write_contact_sheet(sink.folder, records, title))]
    if html:
        failures = sink.failures()
        written.append(_tried(sink.folder, lambda: write_page(sink.folder, records, failures, summary)))
    if export_parquet:
        written.append(_tried(sink.folder, lambda: write_parquet(sink.folder, records)))
    _tried(sink.folder, lambda: sink.write_summary(summary))
    parts = [f"{_count(tally.done, tally.what)} made", f"{found.num_done} there already", f"{result.num_failed} failed"]
    parts += [f"{left} left for the next run"] if left else []
    speed = f" ({summary['images_per_s']:.2f} {tally.what}/s once loaded)" if tally.done else ""
    _say(f"{', '.join(parts)}; {facts['seconds']:.1f} s{speed}")
    if cut:
        _say(f"longer than the model reads: {_count(cut, 'prompts')}; what is past it counts for nothing (prompt_cut)")
    if result.fatal:
        _say(f"error: stopped early: {result.fatal}")
    shown = [path.name for path in written if path is not None]
    if len(found.names) == 1 and (name := next(iter(found.names))) in sink.images:
        shown.insert(0, _file_of(sink, name))
    if shown:
        also = f" (also {', '.join(shown[1:])})" if shown[1:] else ""
        _say(f"see {sink.folder / shown[0]}{also}")


def _count(number: int, things: str) -> str:
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


def _file_of(sink: Sink, name: str) -> str:
    record = sink.images.record(name)
    return str(record.get("shard") or record["file"])


def summarize(
    found: Survey,
    tally: Tally,
    sink: Sink,
    seconds_an_image: Mapping[str, float],
    model: str,
    facts: Mapping[str, Any],
    result: Result,
) -> dict[str, Any]:
    """`throughput` is images made / seconds of the whole command, loading the model included; `images_per_s` leaves
    out what came before the first image was asked for."""
    by_kind = dict(tally.failed_by_kind)
    if found.bad:
        by_kind["bad row"] = len(found.bad)
    seconds = facts["seconds"]
    return {
        "model": model,
        "rows": found.num_rows,
        "images": len(found.names),
        "images_in_folder": len(sink.images),
        "done": tally.done,
        "already_done": found.num_done,
        "remade": found.num_changed,
        "retried": tally.retried,
        "failed": result.num_failed,
        "failed_by_kind": by_kind,
        "bad_rows": len(found.bad),
        "left": found.num_to_do - tally.done - tally.failed,
        "throughput": round(tally.done / seconds, 4) if seconds else 0.0,
        "images_per_s": round(tally.images_per_s, 4),
        "seconds_per_image": dict(seconds_an_image),
        **forwards_figures(facts),
        **memory_figures(facts),
        "format": sink.options.encoding.label,
        "layout": sink.options.layout,
        "exit_status": result.exit_status,
        "fatal": result.fatal,
        "interlace": __version__,
        **facts,
    }


def _tried(folder: Path, write: Callable[[], T]) -> T | None:
    """The images are what matters: what only tells of them may be missing."""
    try:
        return write()
    except OSError as error:
        _say(f"warning: {why_not_written(folder, error)}")
        return None
