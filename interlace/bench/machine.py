"""What a result was measured on: device, precision, versions and day."""

import platform
from datetime import UTC, datetime
from typing import Any

import diffusers
import torch

from interlace.models.loader import LoadedModel


def describe_machine(model: LoadedModel) -> dict[str, Any]:
    """The facts that stand in every result."""
    device = model.pipeline.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "dtype": str(model.pipeline.dtype).removeprefix("torch."),
        "model": model.name,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
        },
    }
