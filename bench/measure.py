"""Measures anew what README, docs/speed.md and bench/results/ say: `python bench/measure.py`, on a quiet machine.

Some 20 minutes on two cores, what matters most first; after `--minutes` no part is begun. Each part's result is kept as
soon as it is there: `--resume` goes on after a run that was cut off. Names of parts measure these alone; `--list` shows
them with their commands. Costs are learned from nothing: each part has a cache folder of its own. The tables of README
and docs/speed.md are printed at the end, in Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
STATE = RESULTS / ".measured.json"  # parts of a run that is not whole yet
_BENCH = (sys.executable, "-m", "interlace", "bench")
_LONGEST_S = 600


def _throughput(workload: str, requests: int, *more: str) -> tuple[str, ...]:
    return (*_BENCH, "throughput", "--workload", workload, "--num-requests", str(requests), "--repeats", "5", *more)


PARTS: dict[str, tuple[str, ...]] = {
    "throughput-mixed-cpu": _throughput("mixed", 16),
    "throughput-uniform-cpu": _throughput("uniform", 16),
    "throughput-small-cpu": _throughput("small", 16),
    "forwards-cpu": (sys.executable, "bench/forwards.py", "--repeats", "5"),
    "throughput-turbo-cpu": _throughput("turbo", 16),
    "throughput-dataset-c-cpu": _throughput("dataset-c", 8),
    "ways-in-cpu": (sys.executable, "bench/ways_in.py", "--repeats", "5", "--t2i-rows", "200"),
    "throughput-long-cpu": _throughput("long", 8),
    "throughput-edit-cpu": _throughput("edit", 6),
    "throughput-mixed-off-cpu": _throughput("mixed", 16, "--optimize", "off"),
    "throughput-uniform-off-cpu": _throughput("uniform", 16, "--optimize", "off"),
    "throughput-lora-cpu": _throughput("lora", 16),
    "serving-compare-cpu": (*_BENCH, "serving", "--compare", "--num-requests", "32", "--repeats", "1"),
    "latency-mixed-cpu": (*_BENCH, "latency", "--num-requests", "16", "--loads", "0.8"),
    "speed-packing-cpu": (*_BENCH, "speed", "--workload", "close", "--num-requests", "5", "--num-inference-steps", "8",
                          "--optimize", "--dtypes", "--engine-options", "packing"),
    "stages-expand-cpu": (*_BENCH, "stages", "--repeats", "3"),
    "speech-cpu": (sys.executable, "bench/speech.py", "3"),
    "quality-step-cache-cpu": (*_BENCH, "quality", "--num-requests", "16", "--repeats", "1", "--cache-types",
                               "step_cache", "--thresholds", "0.1", "0.2"),
}  # fmt: skip
LONGER: dict[str, tuple[str, ...]] = {  # only by name: minutes of compiling
    "speed-flags-cpu": (*_BENCH, "speed", "--optimize", "auto", "compile", "channels_last", "fuse_qkv",
                        "--dtypes", "bfloat16", "--engine-options", "batch_invariant", "--num-requests", "8"),
    "batch-curve-cpu": (*_BENCH, "batch-curve"),
    "replicas-mixed-cpu": (sys.executable, "bench/replicas.py", "--workload", "mixed", "--num-requests", "16"),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="only these")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no part after so many")
    parser.add_argument("--resume", action="store_true", help="leave out what the last run, cut off, has measured")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    known = {**PARTS, **LONGER}
    if unknown := set(args.parts) - known.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    if args.list:
        print("\n".join(f"{name}: {' '.join(command)}" for name, command in known.items()))
        return 0
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): these figures will not mean much", file=sys.stderr)
    wanted = args.parts or list(PARTS)
    missing = measure_all({name: known[name] for name in wanted}, 60 * args.minutes, resume=args.resume)
    summary([name for name in wanted if name not in missing])
    if missing:
        print(f"failed, or not begun in {args.minutes:g} minutes: {', '.join(missing)}", file=sys.stderr)
        print("measure them with --resume", file=sys.stderr)
    return 1 if missing else 0


def measure_all(parts: Mapping[str, Sequence[str]], seconds: float, *, resume: bool = False) -> list[str]:
    """Measures parts in order, none begun after so many seconds. Returns those that are missing."""
    start = perf_counter()
    done: list[str] = json.loads(STATE.read_text(encoding="utf-8")) if resume and STATE.exists() else []
    for number, (name, command) in enumerate(parts.items(), 1):
        spent = perf_counter() - start
        if name in done or spent > seconds:
            continue
        print(f"{number} of {len(parts)}, {name}: after {spent / 60:.1f} minutes", file=sys.stderr, flush=True)
        if measure(name, command):
            done.append(name)
            STATE.write_text(json.dumps(done), encoding="utf-8")
    missing = [name for name in parts if name not in done]
    if not missing:
        STATE.unlink(missing_ok=True)
    return missing


def measure(name: str, command: Sequence[str]) -> bool:
    """Runs one part and keeps its last line; False where it failed."""
    start = perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        environ = {**os.environ, "INTERLACE_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environ, capture_output=True, text=True,
                timeout=_LONGEST_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"{name}: not done in {_LONGEST_S} s", file=sys.stderr)
            return False
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        print(f"{name}: status {done.returncode}\n{done.stderr[-2000:]}", file=sys.stderr)
        return False
    json.loads(lines[-1])
    (RESULTS / f"{name}.json").write_text(lines[-1] + "\n", encoding="utf-8")
    print(f"{name}: {perf_counter() - start:.0f} s", file=sys.stderr)
    return True


def summary(names: Sequence[str]) -> None:
    """What README's table and docs/speed.md are written from."""
    found = {name: json.loads(path.read_text()) for name in names if (path := RESULTS / f"{name}.json").exists()}
    print("| workload | one by one | static batches | waves | largest difference |\n|---|---|---|---|---|")
    for name, result in found.items():
        if name.startswith("throughput-") and "ratio_vs_static" in result:
            ratios = [f"{result[f'ratio_vs_{way}']:.2f}x" for way in ("sequential", "static", "request")]
            off = ", `--optimize off`" if "-off-" in name else ""
            print(f"| `{result['workload']}`{off} | {' | '.join(ratios)} | {result['max_abs_diff']:.1e} |")
    if "forwards-cpu" in found:
        print("\n| `Omni` beside stock diffusers | the whole takes | a forward takes |\n|---|---|---|")
        for task, told in found["forwards-cpu"]["tasks"].items():
            print(f"| {task} | {told['omni_takes']:.2f} | {told['a_forward_takes']:.2f} |")
    if "ways-in-cpu" in found:
        print("\n| way in | images/s, of `Engine.map`'s |\n|---|---|")
        for way, share in found["ways-in-cpu"]["of_engine_map"].items():
            print(f"| {way} | {share:.2f} |")
    print()
    for name, result in found.items():
        if name == "throughput-lora-cpu":
            print(f"lora: {result['ratio_vs_sequential']:.2f}x set_adapters, {result['ratio_vs_apart']:.2f}x apart")
        elif not name.startswith("throughput-") and name not in ("forwards-cpu", "ways-in-cpu"):
            print(f"{name}: {json.dumps(_short(result))}")


def _short(result: dict[str, Any]) -> Any:
    """A result without the machine, the command and what every turn took."""
    left_out = {"command", "machine", "cores", "load_average", "date", "versions", "device", "dtype", "curves"}
    return {name: value for name, value in result.items() if name not in left_out}


if __name__ == "__main__":
    sys.exit(main())
