"""What a user gets who comes through `Omni`, `serve` or `t2i`, beside `Engine.map` on the same requests.

`python bench/ways_in.py`: each way in a process of its own, in turn. Two tables on stderr, one JSON object on stdout.
The second says where a picture's time went: the engine's thread in forwards, in the pipelines' own code, in the
engine, and the rest, in which it waited; and how many rows the denoiser's forwards had.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace.bench import sides
from interlace.bench.load.serving import own_server
from interlace.bench.machine import describe_machine

SIZE, STEPS, AT_ONCE = 128, 8, 16
ENGINE_PARTS = ("forward", "strand", "engine")


class Turn(NamedTuple):
    """How long a turn took, in seconds, and what the engine was `busy` with meanwhile."""

    seconds: float
    busy: dict[str, float]


def busy(stats: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of the engine's thread by part, and the denoiser's rows and forwards, from an engine's counts."""
    counts = {"rows": stats["rows"].get("transformer", 0), "forwards": stats["forwards"].get("transformer", 0)}
    return {**stats["seconds"], **counts}


def since(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in now.items()}


class Map:
    """`Engine.map` over the stock pipeline; its pictures are made and not kept."""

    def __init__(self) -> None:
        from interlace import Engine
        from interlace.models.loader import load_model
        from interlace.models.optimize import AUTO

        self._model = load_model("demo", optimizations=AUTO)  # as the other ways load it
        self._model.pipeline.set_progress_bar_config(disable=True)
        self._engine = Engine(self._model.pipeline, max_num_seqs=AT_ONCE)
        self(AT_ONCE)

    def __call__(self, count: int) -> Turn:
        import torch

        requests = [
            {**self._model.defaults, "prompt": prompt(n), "height": SIZE, "width": SIZE, "num_inference_steps": STEPS,
             "generator": torch.Generator().manual_seed(n)}
            for n in range(count)
        ]  # fmt: skip
        before, start = busy(self._engine.stats()), perf_counter()
        self._engine.map(requests)
        return Turn(perf_counter() - start, since(before, busy(self._engine.stats())))

    def close(self) -> None:
        self._engine.close()


class Whole:
    """`Omni.generate`."""

    def __init__(self) -> None:
        from interlace import Omni

        self._omni = Omni("demo", max_num_seqs=AT_ONCE)
        self(AT_ONCE)

    def __call__(self, count: int) -> Turn:
        size = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS}
        before, start = busy(self._omni.engine.stats()), perf_counter()
        self._omni.generate([{"prompt": prompt(n), "seed": n, **size} for n in range(count)], raise_on_error=True)
        return Turn(perf_counter() - start, since(before, busy(self._omni.engine.stats())))

    def close(self) -> None:
        self._omni.close()


class Served:
    """`interlace serve`, and as many clients as there are places."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self._url = stack.enter_context(own_server("demo", ("--max-num-seqs", str(AT_ONCE))))
            self(AT_ONCE)
            self._stack = stack.pop_all()

    def __call__(self, count: int) -> Turn:
        import httpx

        def ask(n: int) -> None:
            body = {"prompt": prompt(n), "seed": n, "size": f"{SIZE}x{SIZE}", "num_inference_steps": STEPS}
            http.post(self._url + "/images/generations", json=body).raise_for_status()

        with httpx.Client(timeout=600) as http, ThreadPoolExecutor(AT_ONCE) as clients:
            before, start = self._busy(http), perf_counter()
            list(clients.map(ask, range(count)))
            return Turn(perf_counter() - start, since(before, self._busy(http)))

    def _busy(self, http: Any) -> dict[str, float]:
        """`busy` from the server's own metrics, of the lane that draws: there is one for edits beside it."""
        from prometheus_client.parser import text_string_to_metric_families

        text = http.get(self._url.removesuffix("/v1") + "/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        told = [sample for sample in samples if sample.labels.get("model") == "demo"]
        spent = {s.labels["part"]: s.value for s in told if s.name == "interlace:engine_seconds_total"}
        rows = {s.name.rpartition("_")[2]: s.value for s in told if s.labels.get("module") == "transformer"}
        return {**spent, "rows": rows.get("sum", 0.0), "forwards": rows.get("count", 0.0)}

    def close(self) -> None:
        self._stack.close()


def written() -> Any:
    """`interlace t2i`, by its own word: `images_per_s` in summary.json is without loading."""

    def turn(count: int) -> Turn:
        with tempfile.TemporaryDirectory() as folder:
            rows = "".join(json.dumps({"prompt": prompt(n)}) + "\n" for n in range(count))
            (Path(folder) / "rows.jsonl").write_text(rows, encoding="utf-8")
            sizes = ["--num-inference-steps", str(STEPS), "--height", str(SIZE), "--width", str(SIZE)]
            files = ["--prompts-file", f"{folder}/rows.jsonl", "--output-dir", f"{folder}/out"]
            command = [sys.executable, "-m", "interlace", "t2i", *files, "--batch-size", str(AT_ONCE), *sizes]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            summary = json.loads((Path(folder) / "out" / "summary.json").read_text(encoding="utf-8"))
            return Turn(count / float(summary["images_per_s"]), busy(summary["engine"]))

    return turn


def prompt(number: int) -> str:
    return f"a red circle on a blue background {number}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--t2i-rows", type=int, default=200)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "bench": "ways-in",
        "repeats": args.repeats,
        "size": SIZE,
        "num_inference_steps": STEPS,
        "at_once": AT_ONCE,
        **describe_machine(),
        "images_per_s": {},
        "of_engine_map": {},
        "ms_a_picture": {},
    }
    with sides.opened({"Engine.map": Map, "Omni": Whole, "serve": Served}) as ways:
        told: dict[str, list[Turn]] = sides.in_turn(ways, args.repeats, AT_ONCE)
        add(result, told, AT_ONCE)
    with sides.opened({"Engine.map": Map, "t2i": written}) as ways:
        add(result, sides.in_turn(ways, args.repeats, args.t2i_rows), args.t2i_rows)
    line = json.dumps(result)
    print(line)
    sys.stderr.write(json.dumps(result["of_engine_map"]) + "\n")
    for way, parts in result["ms_a_picture"].items():
        sys.stderr.write(f"{way}: {json.dumps(parts)}\n")
    if args.output:
        args.output.write_text(line + "\n", encoding="utf-8")


def add(result: dict[str, Any], told: dict[str, list[Turn]], count: int) -> None:
    for way, turns in told.items():
        name, seconds = f"{way}, {count} requests", [turn.seconds for turn in turns]
        result["images_per_s"][name] = round(count / statistics.median(seconds), 3)
        result["ms_a_picture"][name] = where_it_went(turns, count)
        if way != "Engine.map":
            result["of_engine_map"][name] = sides.paired_ratio([t.seconds for t in told["Engine.map"]], seconds)


def where_it_went(turns: list[Turn], count: int) -> dict[str, float]:
    """Milliseconds a picture by part, medians of the turns, and the rows of a denoiser's forward."""
    parts = {part: [1000 * turn.busy[part] / count for turn in turns] for part in ENGINE_PARTS}
    parts["rest"] = [1000 * (t.seconds - sum(t.busy[part] for part in ENGINE_PARTS)) / count for t in turns]
    parts["rows a forward"] = [turn.busy["rows"] / max(turn.busy["forwards"], 1) for turn in turns]
    return {part: round(statistics.median(values), 2) for part, values in parts.items()}


if __name__ == "__main__":
    main()
