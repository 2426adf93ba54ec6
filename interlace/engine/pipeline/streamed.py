"""Films that leave their decoder chunk by chunk as bytes, so that there never is a whole one in floating point.

For autoencoders that decode a few frames at a time by themselves. Their own code runs; what it would join to a film,
four bytes a value and twice over, is taken from it on the way. Knows nothing of files or requests.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import nn

from interlace.errors import NonFiniteOutputError

Run = Callable[..., Any]


def streams(vae: object) -> bool:
    """Whether the autoencoder decodes a few frames at a time now, and all of a frame at once."""
    return type(vae).__name__ == "AutoencoderKLWan" and not getattr(vae, "use_tiling", True)


def with_bytes(vae: nn.Module, run: Run) -> Run:
    """`run`, the autoencoder's `decode`, which with `as_bytes` answers (film,), [rows, frames, height, width, 3]."""

    def decode(*args: Any, as_bytes: bool = False, **kwargs: Any) -> Any:
        return _streamed(vae, run, *args, **kwargs) if as_bytes else run(*args, **kwargs)

    return decode


def _streamed(vae: Any, run: Run, z: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
    if vae.use_slicing and len(z) > 1:
        return (torch.cat([_streamed(vae, run, row)[0] for row in z.split(1)]),)
    chunks = _Chunks(1 + (z.shape[2] - 1) * 2 ** sum(vae.temperal_downsample), vae.config.patch_size or 1)
    hook = vae.decoder.register_forward_hook(chunks.take)
    try:
        run(z, return_dict=False)
    finally:
        hook.remove()
    return (chunks.film[:, : chunks.filled],)


class _Chunks:
    """Takes what a decoder makes, [rows, channels, frames, height, width] within -1 and 1, and leaves a pixel of it."""

    def __init__(self, num_frames: int, patch_size: int) -> None:
        self._num_frames, self._patch_size = num_frames, patch_size
        self._thread = threading.get_ident()
        self.film = torch.empty(0, dtype=torch.uint8)
        self.filled = 0

    def take(self, decoder: nn.Module, args: object, chunk: torch.Tensor) -> torch.Tensor | None:
        """Raises `NonFiniteOutputError` for what can't be shown: bytes would not tell."""
        if threading.get_ident() != self._thread:
            return None
        if not bool(torch.isfinite(chunk).all()):
            raise NonFiniteOutputError("the film holds NaN or Inf; try another dtype (bfloat16 or float32) or seed")
        pictures = unpatchify(chunk, self._patch_size).clamp(-1, 1)
        values = (pictures * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).float()
        if not self.filled:
            shape = (values.shape[0], self._num_frames, *values.shape[2:])
            self.film = torch.empty(shape, dtype=torch.uint8, device=values.device)
        self.film[:, self.filled : self.filled + values.shape[1]] = (values * 255).round().to(torch.uint8)
        self.filled += values.shape[1]
        return chunk[..., :1, :1].clone()
