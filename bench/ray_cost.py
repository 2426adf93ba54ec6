"""What Ray costs: images a second of `interlace t2i --ray` with two actors beside `--num-processes 2`.

Both sides are the command itself, in turn, over the same rows, on a Ray that is started here for the whole bench. A
side's figure is of its images between the first fifth and the last twentieth, so that starting, loading and ending (all
told beside it) count for nothing: how much later, by the times of their files, the second half of them came than the
first on average, since images come in batches. Its two models have one thread each on two cores,
and Ray's processes the priority of others, so that what else runs takes as much from either side.
`ratio` is the median of each turn's own. The last line is one JSON object.

    python bench/ray_cost.py --num-rows 60 --rounds 3
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace.bench.machine import describe_machine

SIDES = {"processes": ["--num-processes", "2"], "ray": ["--num-replicas", "2"]}


def write_rows(path: Path, num_rows: int, steps: int) -> None:
    subjects = ("a red circle", "a blue star", "two green squares", "a yellow triangle left of a violet ring")
    rows = ({"prompt": f"{subjects[n % 4]}, number {n}", "num_inference_steps": steps} for n in range(num_rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(side: str, rows: Path, out: Path, size: str, address: str) -> dict[str, float]:
    """One command; its images a second once it is under way, and its seconds in all."""
    extra = [*SIDES[side], *(["--ray", address] if side == "ray" else [])]
    command = [sys.executable, "-m", "interlace", "t2i", "--prompts-file", str(rows), "--output-dir", str(out)]
    started = time.perf_counter()
    subprocess.run([*command, "--size", size, "--no-html", *extra], check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    times = sorted(path.stat().st_mtime for path in out.glob("*.png") if path.stem.isdecimal())
    steady = times[len(times) // 5 : -max(len(times) // 20, 1)]
    half = len(steady) // 2
    return {"images_per_s": half / (mean(steady[-half:]) - mean(steady[:half])), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", default="128x128")
    flags = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    figures: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(rows, flags.num_rows, flags.steps)
        # Ray's processes have it from this one: both sides learn the same costs, and run with the same priority.
        os.environ.update(INTERLACE_CACHE_DIR=str(Path(folder) / "costs"), RAY_worker_niceness="0")
        node = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            for number in range(flags.rounds):
                for side in SIDES:
                    out = Path(folder) / f"{side}-{number}"
                    figures[side].append(run(side, rows, out, flags.size, cluster.address))
                    print(f"{side}: {json.dumps(figures[side][-1])}", file=sys.stderr)
        finally:
            cluster.shutdown()
    told: dict[str, Any] = {"benchmark": "ray_cost", "ray_version": ray.__version__, **vars(flags)}
    for side, found in figures.items():
        told[side] = {name: round(median(one[name] for one in found), 3) for name in ("images_per_s", "seconds")}
    turns = zip(figures["ray"], figures["processes"], strict=True)
    every = [round(one["images_per_s"] / other["images_per_s"], 3) for one, other in turns]
    told |= {"every_ratio": every, "ratio": median(every)}
    print(json.dumps({**told, **describe_machine()}))


if __name__ == "__main__":
    main()
