"""A dry run: what a bulk command would do, told on stdout; loads no model and writes nothing."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from interlace.bulk.input.rows import BadRow, Row
from interlace.bulk.made import NOUNS
from interlace.bulk.output.index import Index
from interlace.bulk.output.parts import known_images
from interlace.bulk.output.sink import Sink, SinkOptions
from interlace.bulk.plan import RunOptions, Survey, survey
from interlace.bulk.report.summary import read_summary
from interlace.models.sizes.door import SizeDoor
from interlace.request import SamplingParams

_MAX_SHOWN = 10


@dataclass
class Outlook:
    """What the rows ask for, counted while they go by."""

    sizes: Counter[str] = field(default_factory=Counter)  # WIDTHxHEIGHT -> images
    lengths: Counter[str] = field(default_factory=Counter)  # as rows say them
    steps: Counter[str] = field(default_factory=Counter)

    def watch(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        for row in rows:
            if isinstance(row, Row):
                sampling = row.sampling
                size = f"{sampling.width or 'default'}x{sampling.height or 'default'}"
                self.sizes["default" if size == "defaultxdefault" else size] += sampling.num_images
                self.lengths[_length(sampling)] += sampling.num_images
                self.steps[str(sampling.num_inference_steps or "default")] += sampling.num_images
            yield row


def _length(sampling: SamplingParams) -> str:
    """How long a film or a sound is asked to be."""
    length = "default" if sampling.num_frames is None else f"{sampling.num_frames} frames"
    if sampling.seconds is not None:
        length = f"{sampling.seconds:g} s"
    return length if sampling.fps is None else f"{length} at {sampling.fps:g} fps"


class Existing(Sink):
    """The images that are in a folder, as a sink finds them. Holds nothing and writes nothing."""

    def __init__(self, folder: Path, *, overwrite: bool, options: SinkOptions) -> None:
        self.folder, self.options, self._overwrite = folder, options, overwrite
        nothing = overwrite or not folder.is_dir()
        self.images = Index() if nothing else known_images(folder, is_trusted=self._is_trusted)
        self.num_distrusted = self.images.drop_distrusted()


def dry_run(
    rows: Iterable[Row | BadRow],
    folder: Path,
    options: RunOptions,
    *,
    overwrite: bool = False,
    sink_options: SinkOptions = SinkOptions(),  # noqa: B008 (frozen)
    sizes: SizeDoor | None = None,
) -> int:
    """Tells what a run would do and returns the exit status that bad rows would give it. `sizes` has refused rows.

    Raises `InvalidRequestError` where a run would refuse to start.
    """
    outlook = Outlook()
    found = survey(outlook.watch(rows), Existing(folder, overwrite=overwrite, options=sink_options), options)
    for bad in found.bad[:_MAX_SHOWN]:
        sys.stdout.write(f"{bad.where}: {bad.error}\n")
    if len(found.bad) > _MAX_SHOWN:
        sys.stdout.write(f"... and {len(found.bad) - _MAX_SHOWN} more\n")
    found.check(strict=options.strict)
    unknown = None if sizes is None else sizes.why_unknown
    sys.stdout.write("\n".join(_lines(found, outlook, folder, options, unknown)) + "\n")
    return 1 if found.bad else 0


def _lines(found: Survey, outlook: Outlook, folder: Path, options: RunOptions, unknown: str | None) -> Iterator[str]:
    bad = f", {len(found.bad)} of them can't be used" if found.bad else ""
    yield f"{'rows:':<11}{found.num_rows}{bad}"
    yield f"{NOUNS[options.makes] + ':':<11}{len(found.names)}"
    yield f"{'there:':<11}{found.num_done}"
    changed = f", {found.num_changed} of them again: their parameters or the model changed" if found.num_changed else ""
    yield f"{'to make:':<11}{found.num_to_do}{changed}"
    if options.makes != "sound":
        yield f"{'sizes:':<11}{_histogram(outlook.sizes)}"
    if unknown is not None:
        yield f"{'':<11}not checked: {unknown}; rows with a size that it can't make fail once it is loaded"
    if options.makes in ("film", "sound"):
        yield f"{'lengths:':<11}{_histogram(outlook.lengths)}"
    yield f"{'steps:':<11}{_histogram(outlook.steps)}"
    yield f"{'time:':<11}{_estimate(found.num_to_do, folder, options)}"
    yield "nothing was written (--dry-run)"


def _histogram(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in counts.most_common(_MAX_SHOWN))
    return shown + (f" and {len(counts) - _MAX_SHOWN} more" if len(counts) > _MAX_SHOWN else "")


def _estimate(num_images: int, folder: Path, options: RunOptions) -> str:
    """By the speed of an earlier run in the folder."""
    summary = read_summary(folder)
    speed = summary.get("images_per_s")
    if not num_images:
        return "none"
    if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not speed > 0:
        return f"unknown: no earlier run in {folder} to go by"
    other = f", which used {summary['model']}" if summary.get("model") not in (None, options.model.model) else ""
    return f"about {num_images / speed:.0f} s, at the {speed:.3g} {NOUNS[options.makes]}/s of the last run here{other}"
