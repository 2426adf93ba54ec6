"""Two replicas of one thread each against one engine over all threads: `python bench/replicas.py`, on a quiet machine.

The same requests through `Omni(model)` and `Omni(model, replicas=N)`, which divides the cores among N processes. Each
side is a process of its own; they are asked in turn (A B A B). Says which wins; `--keep` writes that down for
`--replicas auto` of this machine. One JSON object last on stdout; a couple of minutes.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace.bench import sides
from interlace.bench.load.workloads import make_requests
from interlace.bench.machine import describe_machine
from interlace.stages.replicas.choice import keep_choice, num_cores

Turn = Callable[[], dict[str, Any]]


def opened(model: str, workload: str, num_requests: int, replicas: int) -> Turn:
    """One way, open and warm; a call runs all requests once."""
    from interlace import Omni
    from interlace.models.loader import load_model

    requests = [_prompt(kwargs, seed) for seed, kwargs in
                enumerate(make_requests(load_model(model), workload, num_requests, seed=0))]  # fmt: skip
    omni = Omni(model, replicas=replicas)
    omni.generate([{**request, "num_inference_steps": 3} for request in requests], raise_on_error=True)

    class Way:
        def __call__(self) -> dict[str, Any]:
            start = perf_counter()
            outputs = omni.generate(requests, raise_on_error=True)
            seconds = perf_counter() - start
            counts = omni.engine.statistics()
            return {
                "seconds": seconds,
                "pixels": [output.images[0].tobytes() for output in outputs],
                "mean_rows": {name: round(rows, 2) for name, rows in counts.mean_rows.items()},
            }

        def close(self) -> None:
            omni.close()

    return Way()


def _prompt(kwargs: dict[str, Any], seed: int) -> dict[str, Any]:
    left_out = ("generator", "output_type", "max_sequence_length")
    return {name: value for name, value in kwargs.items() if name not in left_out and value is not None} | {
        "seed": seed
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-name", default="demo")
    parser.add_argument("--workload", default="mixed", help="of interlace bench throughput: mixed, uniform, small, ...")
    parser.add_argument("--num-requests", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="for --replicas auto on this machine")
    args = parser.parse_args()
    ways = {"engine": 1, "replicas": args.replicas}
    openers = {
        name: partial(opened, args.model_name, args.workload, args.num_requests, count) for name, count in ways.items()
    }
    with sides.opened(openers) as told:
        turns = sides.in_turn(told, args.repeats)
    seconds = {name: [turn["seconds"] for turn in each] for name, each in turns.items()}
    ratio = sides.paired_ratio(seconds["engine"], than=seconds["replicas"])
    best = args.replicas if ratio > 1 else 1
    if args.keep:
        keep_choice(args.model_name, args.replicas, ratio)
    result = {
        "command": f"python bench/replicas.py --model-name {args.model_name} --workload {args.workload} "
        f"--num-requests {args.num_requests} --replicas {args.replicas} --repeats {args.repeats}",
        **describe_machine(),
        "threads": num_cores(os.environ),
        "seconds": {name: round(statistics.median(each), 3) for name, each in seconds.items()},
        "every_second": {name: [round(one, 3) for one in each] for name, each in seconds.items()},
        "replicas_are": ratio,
        "better": best,
        "max_abs_diff": max(_apart(a["pixels"], b["pixels"]) for a, b in zip(*turns.values(), strict=True)),
        "mean_rows": {name: each[-1]["mean_rows"] for name, each in turns.items()},
    }
    print(f"{args.replicas} replicas are {ratio:.2f} times as fast as one engine", file=sys.stderr)
    print(json.dumps(result))
    return 0


def _apart(ours: list[bytes], theirs: list[bytes]) -> int:
    """Largest difference of any value, of 255."""
    return max(abs(one - other) for a, b in zip(ours, theirs, strict=True) for one, other in zip(a, b, strict=True))


if __name__ == "__main__":
    sys.exit(main())
