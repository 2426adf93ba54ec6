"""What a bulk run costs beside making images: reading rows, writing files and the manifest, going on where it ended.

Every phase runs in a process of its own over one file of generated rows, with a generator that answers at once with
tiny pictures. Memory is what a phase's process needed at its peak beyond what it needs for a thousand rows, so that
the figures can be divided by the rows. The last line is one JSON object.

    python bench/bulk_bookkeeping.py --num-rows 100000
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from PIL import Image

from interlace.bulk.input.rows import Job, Rows
from interlace.bulk.output.sink import ModelId, Sink, SinkOptions
from interlace.bulk.plan import RunOptions, survey
from interlace.bulk.report.outlook import Existing
from interlace.bulk.run import run_bulk
from interlace.request import Metrics, Output, SamplingParams

SUBJECTS = ("a red circle", "a blue star", "two green squares", "a yellow triangle left of a violet ring")
FEW = 1000


class InstantGenerator:
    """The least that a run can wait for: one flat picture for every job."""

    def __init__(self) -> None:
        self._picture = Image.new("RGB", (16, 16), (200, 30, 30))

    def submit(self, job: Job) -> "Future[Output]":
        future: Future[Output] = Future()
        future.set_result(Output(request_id=job.name, images=[self._picture], metrics=Metrics(num_steps=4)))
        return future

    def resolved(self, job: Job) -> dict[str, Any]:
        return {"num_inference_steps": 4, "guidance_scale": 3.5}

    def abort(self, job: Job) -> None: ...

    def mean_rows(self) -> float | None:
        return None

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


def write_rows(path: Path, num_rows: int) -> None:
    with path.open("w") as file:
        for number in range(num_rows):
            prompt = f"{SUBJECTS[number % 4]}, number {number}, on a plain background"
            row = {"id": f"row-{number}", "prompt": prompt, "height": 64 + 16 * (number % 5), "num_inference_steps": 20}
            file.write(json.dumps(row) + "\n")


def options() -> RunOptions:
    return RunOptions(model=ModelId(model="fake"), html=False)


def read_rows(rows: Rows, out: Path) -> None:
    for _ in rows:
        pass


def plan(rows: Rows, out: Path) -> None:
    """Rows and what there is of them: the pass before a run, and the whole of a dry run."""
    survey(rows, Existing(out, overwrite=False, options=SinkOptions()), options())


def make(rows: Rows, out: Path) -> None:
    with Sink(out) as sink:
        run_bulk(rows, sink, options(), InstantGenerator)


def scan(rows: Rows, out: Path) -> None:
    """Reads a manifest and looks for each of its files."""
    with Sink(out):
        pass


PHASES: dict[str, Callable[[Rows, Path], None]] = {
    "rows": read_rows,
    "plan": plan,
    "make": make,
    "scan": scan,
    "resume": make,
}


def run_phase(phase: str, file: Path, out: Path) -> None:
    """In the child: seconds, also of the CPU alone, and the peak of its memory."""
    logging.disable()
    rows = Rows.from_file(file, SamplingParams())
    started, cpu = time.perf_counter(), time.process_time()
    PHASES[phase](rows, out)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}))


def measure(phase: str, file: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--phase", phase, "--file", str(file), "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(num_rows: int, folder: Path) -> dict[str, Any]:
    few, many = folder / "few.jsonl", folder / "many.jsonl"
    write_rows(few, FEW)
    write_rows(many, num_rows)
    figures: dict[str, Any] = {"benchmark": "bulk_bookkeeping", "num_rows": num_rows, "cpus": os.cpu_count()}
    for phase in PHASES:
        small, large = measure(phase, few, folder / "few"), measure(phase, many, folder / "many")
        growth = large["peak_mib"] - small["peak_mib"]
        figures[phase] = {
            "seconds": round(large["seconds"], 2),
            "cpu_seconds": round(large["cpu_seconds"], 2),
            "rows_per_s": round(num_rows / large["seconds"]),
            "peak_mib": round(large["peak_mib"], 1),
            "growth_mib": round(growth, 1),
            "bytes_per_row": round(growth * 2**20 / (num_rows - FEW)),
        }
        print(f"{phase}: {json.dumps(figures[phase])}", file=sys.stderr)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=100_000)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.phase:
        run_phase(flags.phase, flags.file, flags.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(flags.num_rows, Path(folder))))


if __name__ == "__main__":
    main()
