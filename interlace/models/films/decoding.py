"""What pipelines of films get in the place of their own helpers: what was decoded stays as it is, or comes as bytes."""

from typing import Any

import numpy as np
import torch
from diffusers.video_processor import VideoProcessor

from interlace.engine.pipeline.streamed import streams
from interlace.media.clip import Frames, Pixels

# Pipelines that hand what they decode to their video processor as it is.
_STREAMED = frozenset({"WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline"})


class DecodedFilm:
    """A film as the VAE left it: [channels, frames, height, width], or [frames, height, width, 3] of bytes.

    Bytes are made of it off the engine's thread.
    """

    def __init__(self, video: torch.Tensor, *, denormalize: bool) -> None:
        self._video, self._denormalize = video, denormalize

    def frames(self) -> Frames:
        """The very bytes that diffusers' own processors make, one frame at a time."""
        if self._video.dtype == torch.uint8:
            film = self._video.cpu()
            return Frames((film.clone() if film.untyped_storage().nbytes() > film.nbytes else film).numpy())
        count, height, width = self._video.shape[1:]
        array = np.empty((count, height, width, 3), np.uint8)
        for number in range(count):
            frame = self._video[:, number]
            if self._denormalize:
                frame = (frame * 0.5 + 0.5).clamp(0, 1)
            array[number] = frame_bytes(frame)
        return Frames(array)


class FilmKeeper(VideoProcessor):
    """In the place of a pipeline's video processor, for requests whose output Interlace makes itself."""

    def postprocess_video(self, video: torch.Tensor, output_type: str = "np", **kwargs: Any) -> Any:
        """`pt`: the films as they are, copied nowhere. Anything else as ever."""
        is_film = video.ndim == 5 and (video.dtype == torch.uint8 or video.shape[1] == 3)
        if output_type != "pt" or kwargs or not is_film:
            return super().postprocess_video(video, output_type, **kwargs)
        return [DecodedFilm(one, denormalize=bool(self.config.do_normalize)) for one in video]


class StreamingVae:
    """A pipeline's autoencoder, whose films come as bytes where it makes a few frames at a time."""

    def __init__(self, pipeline: object) -> None:
        self._pipeline = pipeline

    def __getattr__(self, name: str) -> object:
        if name == "_pipeline":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._own(), name)

    def _own(self) -> Any:
        """The owner's: within a request its pipeline stands for the request's view, whose autoencoder this one is."""
        return object.__getattribute__(self._pipeline, "vae")

    def decode(self, z: torch.Tensor, *args: object, **kwargs: object) -> object:
        """As the autoencoder's own, but for the bytes."""
        vae = self._own()
        streamed = {"as_bytes": True} if streams(vae) and kwargs.get("return_dict") is False and not args else {}
        return vae.decode(z, *args, **kwargs, **streamed)


def helpers_of(pipeline: object) -> dict[str, object]:
    """What takes the place of a pipeline's own parts, by name; nothing where it makes no films, or has its own ways."""
    own: Any = getattr(pipeline, "video_processor", None)
    if type(own) is not VideoProcessor:
        return {}
    helpers: dict[str, object] = {"video_processor": FilmKeeper.from_config(own.config)}
    if type(pipeline).__name__ in _STREAMED and own.config.do_normalize:
        helpers["vae"] = StreamingVae(pipeline)
    return helpers


def frame_bytes(frame: torch.Tensor) -> Pixels:
    """[channels, height, width] in [0, 1] as [height, width, channels] bytes, rounded as diffusers does."""
    array = frame.permute(1, 2, 0).float().cpu().numpy()
    found: Pixels = (array * 255).round().astype(np.uint8)
    return found
