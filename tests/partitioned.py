"""A bulk command without a model, for tests of many processes: `python partitioned.py FOLDER NUM_IMAGES [FLAGS]`.

Takes the flags of nodes and processes, and --fail NAME. While FOLDER.hold is there, a process makes five images and
no more.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from cyclopts import App
from fake_generator import BROKEN, FakeGenerator

from interlace.bulk.input.rows import Job, Rows
from interlace.bulk.launch.node import run_node
from interlace.bulk.launch.nodes import place
from interlace.bulk.launch.worker import Work, is_worker, run_worker
from interlace.bulk.output.sink import ModelId, Sink, SinkOptions
from interlace.bulk.plan import RunOptions
from interlace.bulk.run import run_bulk
from interlace.cli.flags.bulk import NodeFlags
from interlace.errors import InvalidRequestError
from interlace.request import SamplingParams

app = App(result_action="return_value")
_HELD_AFTER = 5  # images


class SlowGenerator(FakeGenerator):
    """Makes one image at a time, as an engine with a batch size of one; after the first few none before `hold` goes."""

    def __init__(self, seconds: float, hold: Path, **options: Any) -> None:
        super().__init__(**options)
        self.seconds, self.hold = seconds, hold

    def facts(self) -> dict[str, Any]:
        return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}

    def submit(self, job: Job) -> Any:
        time.sleep(self.seconds)
        while len(self.submitted) >= _HELD_AFTER and self.hold.exists():
            time.sleep(0.01)
        return super().submit(job)


def hold_of(folder: Path) -> Path:
    """The file that holds processes up while it is there."""
    return folder.with_name(f"{folder.name}.hold")


@app.default
def main(
    folder: Path,
    num_images: int,
    *,
    nodes: NodeFlags = NodeFlags(),  # noqa: B008
    fail: str = "",
    seconds: float = 0.0,
    overwrite: bool = False,
    seed: int = 0,
) -> int:
    rows = Rows.from_prompts([f"prompt {number}" for number in range(num_images)], SamplingParams())
    work = Work(
        rows=rows,
        folder=folder,
        options=RunOptions(model=ModelId(model="fake"), max_num_seqs=2, base_seed=seed),
        sink_options=SinkOptions(),
        overwrite=overwrite,
        open_generator=lambda: SlowGenerator(seconds, hold_of(folder), faults={fail: BROKEN}),
    )
    try:
        if is_worker():
            return run_worker(work)
        placement = place(nodes)
        if not placement.is_alone:
            return run_node(work, placement, [sys.executable, __file__, *sys.argv[1:]])
        with Sink(folder, overwrite=overwrite) as sink:
            return run_bulk(rows, sink, work.options, work.open_generator).exit_status
    except InvalidRequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    status = app(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
