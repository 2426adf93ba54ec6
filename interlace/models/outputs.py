"""A pipeline's own output as pictures, frames or audio. Runs in a worker: copies from the device, converts, encodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from interlace.request import Output


def add_native(output: Output, native: Any) -> None:
    """Append what a pipeline returned for one request to `output`'s images, frames or audio."""
    if getattr(native, "images", None) is not None:
        output.images.extend(to_pil(native.images))
    elif getattr(native, "frames", None) is not None:
        output.frames.extend(to_pil(video) for video in native.frames)
    elif getattr(native, "audios", None) is not None:
        output.audio.extend(
            np.asarray(clip.float().cpu() if isinstance(clip, torch.Tensor) else clip) for clip in native.audios
        )
    else:
        raise TypeError(f"a {type(native).__name__} holds no images, frames or audios that Interlace knows")


def to_pil(images: torch.Tensor | np.ndarray[Any, Any] | Sequence[Any]) -> list[Image.Image]:
    """Images in [0, 1], [n, channels, height, width] tensors or [n, height, width, channels] arrays, as PIL."""
    if isinstance(images, torch.Tensor):
        images = VaeImageProcessor.pt_to_numpy(images)
    if isinstance(images, np.ndarray):
        return list(VaeImageProcessor.numpy_to_pil(images))
    return [image if isinstance(image, Image.Image) else to_pil(image[None])[0] for image in images]
