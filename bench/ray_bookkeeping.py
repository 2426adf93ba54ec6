"""What a bulk run on Ray costs beside making images: rows a second through driver, actors, files and manifest.

The actors' stage answers at once, with flat pictures and as many steps' progress as a real one tells; everything else
is what `interlace t2i --ray` runs: routing, messages, pictures over Ray's object store, PNGs and manifest by the
driver. The last line is one JSON object.

    python bench/ray_bookkeeping.py --num-rows 2000 --num-replicas 2 --side 1024
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # actors import the stage from here, by name

from interlace.bench.machine import describe_machine


class InstantStage:
    """A stage that draws nothing: the built-in model's words, and a flat picture for each request."""

    def __init__(self, side: int, steps: int) -> None:
        from interlace.models.loader import load_model

        self.model = load_model("demo")
        self._picture, self._steps = _picture(side), steps

    def submit(self, request: Any, listener: Any = None) -> "Future[Any]":
        from interlace.request import Metrics, Output, Progress

        for step in range(self._steps):
            listener(Progress(request_id=request.request_id, step=step + 1, num_steps=self._steps))
        future: Future[Any] = Future()
        metrics = Metrics(num_steps=self._steps)
        future.set_result(Output(request_id=request.request_id, images=[self._picture], metrics=metrics))
        return future

    def abort(self, request_id: str) -> bool:
        return False

    def stats(self) -> dict[str, Any]:
        return {"forwards": {}, "rows": {}}

    def describe(self) -> dict[str, Any]:
        return {"pipeline": "FluxPipeline", "dtype": "float32", "device": "none", "defaults": {}}

    def close(self) -> None: ...


def _picture(side: int) -> Image.Image:
    """Soft, with a little noise, as pictures are: its PNG takes about as much of a core as theirs."""
    soft = Image.effect_noise((side // 8, side // 8), 90).resize((side, side), Image.Resampling.BICUBIC)
    fine = Image.effect_noise((side, side), 4)
    return Image.merge("RGB", [Image.blend(soft.rotate(turn), fine, 0.1) for turn in (0, 90, 180)])


def write_rows(path: Path, num_rows: int) -> None:
    rows = ({"id": f"row-{n}", "prompt": f"a red circle, number {n}"} for n in range(num_rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(num_rows: int, num_replicas: int, side: int, steps: int, max_num_seqs: int) -> dict[str, Any]:
    import ray_bookkeeping  # this file by its name: a class of __main__ can't be found by an actor

    from interlace.bulk.generator import OmniGenerator
    from interlace.bulk.input.rows import Rows
    from interlace.bulk.output.sink import ModelId, Sink
    from interlace.bulk.plan import RunOptions
    from interlace.bulk.run import run_bulk
    from interlace.ray.bulk import over_fleet
    from interlace.ray.cluster import Fleet
    from interlace.request import SamplingParams
    from interlace.stages.opening import model_in_processes

    config = model_in_processes("demo", {"max_num_seqs": max_num_seqs}, None, 1, None)
    opener = partial(ray_bookkeeping.InstantStage, side, steps)
    omni = over_fleet(config, Fleet(num_replicas=num_replicas), opener)
    options = RunOptions(
        model=ModelId(model="instant"), html=False, max_num_seqs=max_num_seqs * num_replicas, num_writers=2
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, num_rows)
        started, cpu = time.perf_counter(), time.process_time()
        with Sink(Path(folder) / "out") as sink:
            result = run_bulk(Rows.from_file(file, SamplingParams()), sink, options, lambda: OmniGenerator(omni))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        manifest = (Path(folder) / "out" / "manifest.jsonl").stat().st_size
    assert result.exit_status == 0
    return {
        "rows_per_s": round(num_rows / seconds, 1),
        "driver_cpu_ms_per_row": round(1000 * cpu / num_rows, 2),
        "manifest_bytes_per_row": round(manifest / num_rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=2000)
    parser.add_argument("--num-replicas", type=int, default=2)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    flags = parser.parse_args()
    import ray

    logging.disable()
    rays = {"include_dashboard": False, "object_store_memory": 500 * 2**20, "log_to_driver": False}
    ray.init("local", num_cpus=flags.num_replicas, **rays)
    try:
        measured = run(flags.num_rows, flags.num_replicas, flags.side, flags.steps, flags.max_num_seqs)
        print(json.dumps({"benchmark": "ray_bookkeeping", **vars(flags), **measured, **describe_machine()}))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
