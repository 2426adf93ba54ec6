"""Begins the denoiser's training from a finished model, to teach it more. Knows nothing of what it is trained on."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

PROBE_STEPS = 120  # of the first, in which only the probes learn: they are not shipped, so they begin anew
PROBE_RATE = 10.0  # times the others' learning rate


def begin_from(model: nn.Module, folder: Path) -> tuple[float, float]:
    """Puts the weights of the pipeline in `folder` into `model`; returns the mean and deviation of its latents."""
    shipped = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    for name in ("text_encoder", "text_encoder_2", "transformer"):
        getattr(model, name).load_state_dict(getattr(shipped, name).state_dict())
    return float(shipped.vae.config.shift_factor), 1 / float(shipped.vae.config.scaling_factor)


def choose_what_learns(model: nn.Module, step: int) -> None:
    """At first the probes alone; then the transformer too. The text encoders see no picture and stay as they are."""
    for name, part in model.named_children():
        part.requires_grad_(name == "probes" or (name == "transformer" and step >= PROBE_STEPS))
