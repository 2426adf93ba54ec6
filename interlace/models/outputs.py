"""A pipeline's own output as pictures, frames or audio. Runs in a worker: copies from the device, converts, encodes.

A film becomes bytes frame by frame: beside what the VAE decoded there is only the film in bytes, a quarter of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from interlace.engine.device.host import fetched
from interlace.media.clip import Frames
from interlace.models.films.decoding import DecodedFilm, frame_bytes
from interlace.request import Output


def add_native(output: Output, native: Any, *, is_film: bool = False) -> None:
    """Append what a pipeline returned for one request to `output`'s images, frames and audio. `is_film`: its pictures
    are the frames of one film, as Text2Video-Zero returns them.
    """
    heard = next((found for name in ("audios", "audio") if (found := getattr(native, name, None)) is not None), None)
    if getattr(native, "images", None) is not None and is_film:
        output.frames.append(Frames.of(to_pil(native.images)))
    elif getattr(native, "images", None) is not None:
        output.images.extend(to_pil(native.images))
    elif getattr(native, "frames", None) is not None:
        output.frames.extend(_film(video) for video in native.frames)
    elif heard is None:
        raise TypeError(f"a {type(native).__name__} holds no images, frames or audios that Interlace knows")
    if heard is not None:
        output.audio.extend(_samples(clip) for clip in heard)


def to_pil(images: torch.Tensor | np.ndarray[Any, Any] | Sequence[Any]) -> list[Image.Image]:
    """Images in [0, 1], [n, channels, height, width] tensors or [n, height, width, channels] arrays, as PIL."""
    if isinstance(images, torch.Tensor):
        images = VaeImageProcessor.pt_to_numpy(fetched(images))
    if isinstance(images, np.ndarray):
        return list(VaeImageProcessor.numpy_to_pil(images))
    return [image if isinstance(image, Image.Image) else to_pil(image[None])[0] for image in images]


def _film(video: Any) -> Frames:
    """What stands for one film: ours, a tensor [frames, channels, height, width], an array with channels last."""
    if isinstance(video, DecodedFilm):
        return video.frames()
    if isinstance(video, torch.Tensor):
        return _stacked(frame_bytes(frame) for frame in video)
    if isinstance(video, np.ndarray):
        return _stacked((frame * 255).round().astype(np.uint8) for frame in video)
    return Frames.of(list(video))


def _stacked(frames: Iterator[np.ndarray[Any, Any]]) -> Frames:
    return Frames(np.stack([frame if frame.shape[-1] == 3 else frame.repeat(3, axis=-1) for frame in frames]))


def _samples(clip: Any) -> np.ndarray[Any, Any]:
    """One clip as [channels, samples]."""
    values = np.asarray(clip.float().cpu() if isinstance(clip, torch.Tensor) else clip)
    return values[None] if values.ndim == 1 else values
