"""What `--optimize auto` switches on: channels-last convolutions of the VAE, and quick forms of other modules' parts.

Each is tried once, when a model is loaded for the first time, and remembered beside the measured costs of forwards.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from interlace.engine.accelerator import name_of
from interlace.engine.costs import cost_file
from interlace.models.automatic.channels_last import try_channels_last
from interlace.models.automatic.forms import FORMS, formed, put_on, try_form, typical
from interlace.models.automatic.trial import Finding

_DENOISERS = ("transformer", "transformer_2", "unet", "prior", "decoder")

logger = logging.getLogger("interlace.models")


def optimize_automatically(pipeline: DiffusionPipeline) -> list[str]:
    """Switch on what pays here; in words, what that is. Nothing where parts are quantised or offloaded."""
    vae, done = getattr(pipeline, "vae", None), list[str]()
    if isinstance(vae, torch.nn.Module) and _has_convolutions(vae) and _is_plain(pipeline, vae):
        found = _decided(vae, "", lambda: try_channels_last(vae))
        logger.info("optimize auto: channels-last convolutions of the VAE %s (%s)", _on(found), found.why)
        if found.on:
            vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's own hints
            done.append(f"vae channels_last ({found.why})")
    for name, part in vars(pipeline).items():
        takes_forms = name in _DENOISERS or name.startswith("text_encoder")
        if takes_forms and isinstance(part, torch.nn.Module) and _is_plain(pipeline, part):
            done += [f"{name} {form}" for form in _quick_forms(part)]
    return done


def denoisers_of(pipeline: DiffusionPipeline) -> list[Any]:
    """The modules that run once a step."""
    return [part for name in _DENOISERS if isinstance(part := getattr(pipeline, name, None), torch.nn.Module)]


def _quick_forms(module: torch.nn.Module) -> list[str]:
    done = []
    for form in FORMS:
        if parts := formed(module, form):
            name = form.of.__name__
            found = _decided(module, name, lambda form=form, parts=parts: try_form(form, typical(parts)))  # type: ignore[misc]
            logger.info("optimize auto: the quick form of %s %s (%s)", name, _on(found), found.why)
            if found.on:
                put_on(form, parts)
                done.append(f"quick {name} ({found.why})")
    return done


def _on(found: Finding) -> str:
    return "is on" if found.on else "is off"


def _has_convolutions(vae: torch.nn.Module) -> bool:
    return any(isinstance(part, torch.nn.Conv2d) for part in vae.modules())


def _is_plain(pipeline: DiffusionPipeline, part: torch.nn.Module) -> bool:
    """Weights that are nobody's but the module's own."""
    own = all(type(p) is torch.nn.Parameter and p.is_floating_point() and not p.is_meta for p in part.parameters())
    hooked = hasattr(part, "_hf_hook") or bool(getattr(pipeline, "_all_hooks", None))
    return own and not hooked and getattr(part, "hf_quantizer", None) is None


def _decided(part: torch.nn.Module, what: str, look: Callable[[], Finding]) -> Finding:
    """As remembered, or found out now."""
    path = _file(part, what)
    if (known := _remembered(path)) is not None:
        return known
    found = look()
    _remember(path, found)
    return found


def _file(part: torch.nn.Module, what: str) -> Path:
    """By device, class, size, precision and version of torch, as costs are."""
    parameter = next(part.parameters())
    device = parameter.device
    on = f"{device}{torch.get_num_threads()}" if device.type == "cpu" else name_of(device)
    millions = f"{sum(p.numel() for p in part.parameters()) / 1e6:.3g}"
    dtype = str(parameter.dtype).removeprefix("torch.")
    name = "-".join(filter(None, (type(part).__name__, millions, what)))
    costs = cost_file(on, name, dtype, torch.__version__)
    return costs.parent.parent / "optimize" / costs.name


def _remembered(path: Path) -> Finding | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return Finding(bool(known["on"]), str(known["why"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(path: Path, found: Finding) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(found)), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.info("what optimize auto found is not kept: %s", error)
