"""Deaths on Ray: a bulk run on two nodes whose actors are killed again and again and whose driver is killed once.

The run is the command itself, on a cluster of two nodes of this machine; after the driver's SIGKILL it is started anew.
Then every row must be there once, with no failure, as a run without Ray makes it (to 1 of 255). The last line is one
JSON object; exit status 1 where something is lost, doubled or different.

    python bench/ray_kills.py --num-rows 200 --num-kills 6
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.on_ray.processes import actors

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def write_rows(path: Path, num_rows: int) -> None:
    subjects = ("a red circle", "a blue star", "two green squares", "a yellow triangle left of a violet ring")
    rows = ({"prompt": f"{subjects[n % 4]}, number {n}", "num_inference_steps": 3 + n % 3} for n in range(num_rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def manifest(out: Path) -> list[dict[str, Any]]:
    """Its whole lines so far."""
    path = out / "manifest.jsonl"
    found = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in found if line.endswith("\n")]


def start(rows: Path, out: Path, *words: str) -> "subprocess.Popen[bytes]":
    command = ["t2i", "--prompts-file", str(rows), "--output-dir", str(out), "--size", "64x64", "--no-html"]
    command += ["--max-num-seqs", "4", *words]
    return subprocess.Popen(
        [sys.executable, "-m", "interlace", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def watched(run: "subprocess.Popen[bytes]", out: Path, cluster: Any, kills: list[int], driver_at: int | None) -> int:
    """Kills an actor at each of the numbers of lines in `kills`, and the driver at `driver_at`. Actors that died."""
    killed = 0
    while run.poll() is None:
        there = len(manifest(out))
        if driver_at is not None and there >= driver_at:
            run.kill()
            run.wait()
        elif kills and there >= kills[0] and (found := actors(cluster)):
            kills.pop(0)
            os.kill(found[killed % len(found)], signal.SIGKILL)
            killed += 1
        time.sleep(0.05)
    return killed


def largest_difference(lines: list[dict[str, Any]], one: Path, other: Path) -> int:
    """Of the pixels of all files, of 255."""
    import numpy as np
    from PIL import Image

    most = 0
    for line in lines:
        with Image.open(one / line["file"]) as a, Image.open(other / line["file"]) as b:
            most = max(most, int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()))
    return most


def measure(num_rows: int, num_kills: int, folder: Path, cluster: Any) -> dict[str, Any]:
    rows, out, calm = folder / "rows.jsonl", folder / "ray", folder / "calm"
    write_rows(rows, num_rows)
    ray = ("--ray", cluster.address, "--num-replicas", "2")
    kills = [num_rows * (n + 1) // (num_kills + 2) for n in range(num_kills)]
    began = time.perf_counter()
    killed = watched(start(rows, out, *ray), out, cluster, kills, driver_at=num_rows // 2)
    before = len(manifest(out))
    while actors(cluster):  # they end with their driver
        time.sleep(0.1)
    second = start(rows, out, *ray)
    killed += watched(second, out, cluster, kills, driver_at=None)
    seconds = time.perf_counter() - began
    start(rows, calm).wait()
    lines = manifest(out)
    files = sorted(line["file"] for line in lines)
    failures = out / "failures.jsonl"
    return {
        "actors_killed": killed,
        "drivers_killed": 1,
        "lines_when_the_driver_died": before,
        "exit_status": second.returncode,
        "lost": num_rows - len(set(files)),
        "doubled": len(files) - len(set(files)),
        "failed": len(failures.read_text().splitlines()) if failures.exists() else 0,
        "largest_difference": largest_difference(lines, out, calm),
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=200)
    parser.add_argument("--num-kills", type=int, default=6)
    flags = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(flags.num_rows, flags.num_kills, Path(folder), cluster)
    finally:
        cluster.shutdown()
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    print(json.dumps({"benchmark": "ray_kills", "ray_version": ray.__version__, **vars(flags), **found, **machine}))
    whole = (found["lost"], found["doubled"], found["failed"], found["exit_status"]) == (0, 0, 0, 0)
    return 0 if whole and found["largest_difference"] <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
