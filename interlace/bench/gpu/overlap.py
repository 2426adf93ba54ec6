"""How long a device had nothing to do, from a profiler's trace: the time between its first and last kernel that none
covers."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of trace events
Span = tuple[float, float]  # microseconds: begin, end


def device_idle(run: Callable[[], object], device: torch.device) -> dict[str, object]:
    """Runs it under the profiler. On a CPU there are no kernels, and so no share."""
    # Of the device alone: recording the host's operators would slow it down, and the device would wait for that.
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=activities) as profiler:
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return idle_of(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])


def idle_of(events: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """From a trace's events: kernels and copies, the seconds from the first to the end of the last, and the share of
    these in which none ran. None without any."""
    spans = sorted(_span(event) for event in events if event.get("cat") in _ON_DEVICE and "dur" in event)
    if not spans:
        return {"kernels": 0, "seconds": None, "idle": None, "longest_gap_ms": None}
    busy, longest, end = 0.0, 0.0, spans[0][0]
    for begins, ends in spans:
        longest = max(longest, begins - end)
        busy += max(0.0, ends - max(begins, end))
        end = max(end, ends)
    whole = end - spans[0][0]
    return {
        "kernels": len(spans),
        "seconds": round(whole / 1e6, 4),
        "idle": round(1 - busy / whole, 4) if whole else 0.0,
        "longest_gap_ms": round(longest / 1000, 3),
    }


def _span(event: Mapping[str, object]) -> Span:
    begins, lasts = float(str(event["ts"])), float(str(event["dur"]))
    return begins, begins + lasts
