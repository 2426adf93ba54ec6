"""What a result was measured on: device, precision, processor, load, versions and day. Torch only where a model is."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interlace.models.loader import LoadedModel


def describe_machine() -> dict[str, object]:
    """The facts that stand in every result."""
    return {
        "machine": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),  # what else ran: above the number of cores, seconds mean little
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "torch": version("torch"),
            "diffusers": version("diffusers"),
            "python": platform.python_version(),
        },
    }


def describe_model(model: "LoadedModel") -> dict[str, object]:
    """The same, with the model, and what it runs on."""
    import torch

    from interlace.engine.accelerator import name_of

    device = model.pipeline.device
    name = f"cpu, {torch.get_num_threads()} threads" if device.type == "cpu" else name_of(device)
    return {
        "device": name,
        "dtype": str(model.pipeline.dtype).removeprefix("torch."),
        "model": model.name,
        **describe_machine(),
    }


def _processor() -> str:
    """Its model where the system says it (Linux), else what Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.machine())
