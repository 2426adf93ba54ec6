"""`--optimize auto`: what is equal within rounding, and was measured to be quicker on this machine with this model.

Tried once, when a model is loaded for the first time, and remembered beside the measured costs of forwards. So far one
thing is tried: the VAE's convolutions on channels-last weights.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline

from interlace.engine.accelerator import name_of, synchronize
from interlace.engine.calls.fuse import close
from interlace.engine.costs import cost_file

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

logger = logging.getLogger("interlace.models")
_SIDE = 8  # latent pixels a side of what is decoded to try it
_WORTH = 1.03  # times as quick, or it isn't worth another layout
_LONG_S = 0.1  # of one decode: then it is tried once, and not several times
_TOO_LONG_S = 1.0  # then not at all
_TRIES = 3


def optimize_automatically(pipeline: DiffusionPipeline) -> list[str]:
    """Switch on what pays here; in words, what that is. Nothing where parts are quantised or offloaded."""
    vae = getattr(pipeline, "vae", None)
    if not isinstance(vae, torch.nn.Module) or not _is_plain(pipeline, vae):
        return []
    path = _file(vae)
    known = _remembered(path)
    if known is None:
        known = try_channels_last(vae)
        _remember(path, known)
    if not known["on"]:
        logger.info("optimize auto: the VAE stays as it is (%s)", known["why"])
        return []
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's own hints
    logger.info("optimize auto: the VAE's convolutions are channels-last (%s)", known["why"])
    return [f"vae channels_last ({known['why']})"]


def try_channels_last(vae: "AutoencoderKL") -> dict[str, object]:
    """Decode and encode a little in both layouts: `on` where the outputs are equal and decoding is quicker, and `why`.

    The weights are left in the layout that they had.
    """
    parameter, channels = next(vae.parameters()), getattr(vae.config, "latent_channels", None)
    if channels is None:
        return {"on": False, "why": "not tried: its latents are of another kind"}
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, int(channels), _SIDE, _SIDE, generator=generator)
    latents = latents.to(parameter.device, parameter.dtype)
    decode: Callable[[], Any] = lambda: vae.decode(latents, return_dict=False)[0]  # noqa: E731
    encode: Callable[[Any], Any] = lambda picture: vae.encode(picture, return_dict=False)[0].mode()  # noqa: E731
    try:
        with torch.no_grad():
            picture = decode()
            plain, ratios = encode(picture), list[float]()
            first = seconds(decode)
            if first > _TOO_LONG_S:
                return {"on": False, "why": f"not tried: one decode takes {first:.1f} s"}
            for _ in range(1 if first > _LONG_S else _TRIES):
                before = seconds(decode)
                vae.to(memory_format=torch.channels_last)
                same = close(decode(), picture) and close(encode(picture), plain)
                after = seconds(decode)
                vae.to(memory_format=torch.contiguous_format)
                decode()
                if not same:
                    return {"on": False, "why": "channels-last gave other pictures"}
                ratios.append(before / after)
    except Exception as error:  # a VAE of another kind: video, no mode, other latents
        vae.to(memory_format=torch.contiguous_format)
        return {"on": False, "why": f"not tried: {type(error).__name__}"}
    ratio = median(ratios)
    return {"on": ratio >= _WORTH, "why": f"{ratio:.2f} times as quick"}


def seconds(run: Callable[[], object]) -> float:
    """Of one call, the device's work included."""
    start = perf_counter()
    run()
    synchronize()
    return perf_counter() - start


def _is_plain(pipeline: DiffusionPipeline, vae: "AutoencoderKL") -> bool:
    """Weights that are nobody's but the module's own, with convolutions among them."""
    own = all(type(p) is torch.nn.Parameter and p.is_floating_point() and not p.is_meta for p in vae.parameters())
    hooked = hasattr(vae, "_hf_hook") or bool(getattr(pipeline, "_all_hooks", None))
    quantised = getattr(vae, "hf_quantizer", None) is not None
    has_convolutions = any(isinstance(part, torch.nn.Conv2d) for part in vae.modules())
    return own and not hooked and not quantised and has_convolutions


def _file(vae: "AutoencoderKL") -> Path:
    """By device, class, size, precision and version of torch, as costs are."""
    parameter = next(vae.parameters())
    device = parameter.device
    on = f"{device}{torch.get_num_threads()}" if device.type == "cpu" else name_of(device)
    millions = f"{sum(p.numel() for p in vae.parameters()) / 1e6:.3g}"
    dtype = str(parameter.dtype).removeprefix("torch.")
    costs = cost_file(on, f"{type(vae).__name__}-{millions}", dtype, torch.__version__)
    return costs.parent.parent / "optimize" / costs.name


def _remembered(path: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {"on": bool(known["on"]), "why": str(known["why"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(path: Path, known: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.info("what optimize auto found is not kept: %s", error)
