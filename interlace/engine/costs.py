"""Which file of measured costs belongs to a pipeline."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from interlace.engine.accelerator import name_of
from interlace.engine.pipeline.routine import Routine
from interlace.engine.pipeline.view import modules_of
from interlace.engine.policy.cost import CostModel


def costs_of(pipeline: DiffusionPipeline | Routine) -> CostModel:
    """What was measured before with this device, architecture, precision and version of torch."""
    device, modules = pipeline.device, modules_of(pipeline)
    on = f"{device}{torch.get_num_threads()}" if device.type == "cpu" else name_of(device)
    millions = "-".join(f"{sum(p.numel() for p in module.parameters()) / 1e6:.3g}" for module in modules.values())
    dtype = str(pipeline.dtype).removeprefix("torch.")
    return CostModel(cost_file(on, f"{type(pipeline).__name__}-{millions}", dtype, torch.__version__))


def cost_file(device: str, model: str, dtype: str, version: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the costs of one model on one device lie: in INTERLACE_CACHE_DIR, XDG_CACHE_HOME or ~/.cache."""
    root = environ.get("INTERLACE_CACHE_DIR")
    base = Path(root) if root else Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interlace"
    name = "-".join(_safe(part) for part in (device, model, dtype, version))
    return base / "costs" / f"{name}.json"


def _safe(text: str) -> str:
    keep: Callable[[str], bool] = lambda c: c.isalnum() or c in "._"  # noqa: E731
    return "".join(c if keep(c) else "_" for c in text)[-80:]
