"""Convolutions of a VAE on channels-last weights: tried with a dozen decodes of small latents."""

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from interlace.engine.calls.fuse import close
from interlace.models.automatic.trial import LONG_S, TOO_LONG_S, Finding, seconds

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_SIDE = 8  # latent pixels a side of what is decoded to try it
_TRIES = 3
_WORTH = 1.03  # times as quick, or it isn't worth another layout


def try_channels_last(vae: "AutoencoderKL") -> Finding:
    """Decode and encode a little in both layouts: on where the outputs are equal and decoding is quicker.

    The weights are left in the layout that they had.
    """
    parameter, channels = next(vae.parameters()), getattr(vae.config, "latent_channels", None)
    if channels is None:
        return Finding(False, "not tried: its latents are of another kind")
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
            if first > TOO_LONG_S:
                return Finding(False, f"not tried: one decode takes {first:.1f} s")
            for _ in range(1 if first > LONG_S else _TRIES):
                before = seconds(decode)
                vae.to(memory_format=torch.channels_last)
                same = close(decode(), picture) and close(encode(picture), plain)
                after = seconds(decode)
                vae.to(memory_format=torch.contiguous_format)
                decode()
                if not same:
                    return Finding(False, "channels-last gave other pictures")
                ratios.append(before / after)
    except Exception as error:  # a VAE of another kind: video, no mode, other latents
        vae.to(memory_format=torch.contiguous_format)
        return Finding(False, f"not tried: {type(error).__name__}")
    ratio = median(ratios)
    return Finding(ratio >= _WORTH, f"{ratio:.2f} times as quick")
