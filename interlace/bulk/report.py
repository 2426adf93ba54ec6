"""What a bulk run tells its user: on stderr before and after the work, and in `summary.json`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlace import __version__
from interlace.bulk.contact_sheet import write_contact_sheet
from interlace.bulk.plan import Survey
from interlace.bulk.progress import Tally
from interlace.bulk.sink import FAILURES, Sink


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


def announce(found: Survey, sink: Sink) -> None:
    """Before the work: what is wrong with the input, and what there is already."""
    for bad in found.bad[:5]:
        _say(f"{bad.where}: {bad.error}")
    if len(found.bad) > 5:
        _say(f"... and {len(found.bad) - 5} more bad rows, see {sink.folder / FAILURES}")
    if found.num_done:
        _say(f"{found.num_done} of {len(found.names)} images are there already")
    if found.num_changed:
        _say(f"{found.num_changed} images are made again: their parameters or the model changed since")


def report(found: Survey, tally: Tally, sink: Sink, model: str, facts: Mapping[str, Any], result: Result) -> None:
    """After the work: the contact sheet, the summary, and two lines for the user."""
    records = [sink.records[name] for name in found.names if name in sink.records]
    sheet = write_contact_sheet(sink.folder, records, f"{model} · {len(records)} images")
    left = found.num_to_do - tally.done - tally.failed
    summary = {
        "model": model,
        "rows": found.num_rows,
        "images": len(found.names),
        "done": tally.done,
        "already_done": found.num_done,
        "remade": found.num_changed,
        "failed": result.num_failed,
        "bad_rows": len(found.bad),
        "left": left,
        "images_per_s": round(tally.images_per_s, 4),
        "exit_status": result.exit_status,
        "fatal": result.fatal,
        "interlace": __version__,
        **facts,
    }
    sink.write_summary(summary)
    parts = [f"{tally.done} images made", f"{found.num_done} there already", f"{result.num_failed} failed"]
    parts += [f"{left} left for the next run"] if left else []
    _say(f"{', '.join(parts)}; {facts['seconds']:.1f} s")
    if result.fatal:
        _say(f"error: stopped early: {result.fatal}")
    if sheet is not None:
        _say(f"see {sheet}")
