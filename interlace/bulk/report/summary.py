"""The figures of a run: speed, seconds per image, rows per forward, memory. Loads no torch."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interlace.bulk.output.manifest import SUMMARY

_DENOISERS = ("transformer", "unet", "prior", "dit", "decoder")  # Kandinsky and Stable Cascade say prior, decoder


def read_summary(folder: Path) -> Mapping[str, Any]:
    """What the last run in a folder told of itself; empty where there was none, or its file is broken."""
    try:
        summary = json.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is no less than `share` of all (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def seconds_of(record: Mapping[str, Any]) -> float | None:
    """From an image's first forward to its last; without the time in which it waited for its turn."""
    timing = record.get("timing") or {}
    total, queued = timing.get("total_s"), timing.get("queue_s", 0.0)
    return max(0.0, float(total) - float(queued)) if isinstance(total, (int, float)) else None


def seconds_per_image(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of all images that are there, with those of earlier runs; empty where none tells."""
    ordered = sorted(seconds for record in records if (seconds := seconds_of(record)) is not None)
    if not ordered:
        return {}
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    found = {name: percentile(ordered, share) for name, share in shares.items()}
    return {name: round(value, 4) for name, value in {**found, "mean": sum(ordered) / len(ordered)}.items()}


def forwards_figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How many rows shared a forward of the denoiser, by what the engine says; with many processes, of all together.

    `forwards_saved` is what one forward a row would have taken beyond what was run.
    """
    parts = [part for part in (facts, *facts.get("processes", ())) if isinstance(part.get("engine"), Mapping)]
    forwards = _summed(part["engine"].get("forwards") or {} for part in parts)
    rows = _summed(part["engine"].get("rows") or {} for part in parts)
    if not sum(forwards.values()):
        return {}
    denoiser = denoiser_of(forwards)
    return {
        "rows_per_forward": round(rows.get(denoiser, 0) / forwards[denoiser], 3),
        "forwards": sum(forwards.values()),
        "forwards_saved": sum(rows.values()) - sum(forwards.values()),
    }


def memory_figures(facts: Mapping[str, Any]) -> dict[str, int]:
    """The peaks of all processes together, which need not have been at the same time."""
    own = peak_memory()
    parts = facts.get("processes")
    return {name: sum(part.get(name, 0) for part in parts) or size for name, size in own.items()} if parts else own


def denoiser_of(forwards: Mapping[str, int]) -> str:
    """The module that takes the steps: the busiest of the transformers and UNets, or of all where there is none."""
    denoisers = [name for name in forwards if name.partition(".")[0].startswith(_DENOISERS)]
    return max(denoisers or forwards, key=lambda module: forwards[module])


def num_cut(records: Iterable[Mapping[str, object]]) -> int:
    """Images whose prompts were longer than the model reads."""
    return sum("prompt_cut" in record for record in records)


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for module, number in count.items():
            total[module] = total.get(module, 0) + number
    return total


def peak_memory() -> dict[str, int]:
    """Bytes, at most, of this process and (where it used one) of its GPU."""
    found: dict[str, int] = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        found["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None:
        from interlace.engine import accelerator
        from interlace.engine.memory.footprint import device_peak

        used = [device for device, _ in accelerator.states() if accelerator.counts_memory(device)]
        if used:
            found["peak_device_bytes"] = max(device_peak(device) for device in used)
    return found
