"""Film and sound as things: frames as bytes that become pictures one at a time, samples with their rate.

A film of seconds holds hundreds of megabytes. So there is one copy of it, an array of bytes, and whoever wants pictures
gets each when it is asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from interlace.errors import AbortedError, InvalidRequestError

Pixels = NDArray[np.uint8]


class Frames(Sequence[Image.Image]):
    """The frames of a film: an array [frames, height, width, 3] of bytes that reads as a list of PIL pictures."""

    def __init__(self, array: Pixels) -> None:
        """Raises `InvalidRequestError` for an array of another shape or type, or without a frame."""
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
            text = f"frames are {array.dtype} {array.shape}; expected uint8 [frames, height, width, 3]"
            raise InvalidRequestError(text, "frames")
        self.array = array

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.array.shape[2], self.array.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> "list[Image.Image]": ...
    def __getitem__(self, place: int | slice) -> "Image.Image | list[Image.Image]":
        if isinstance(place, slice):
            return [Image.fromarray(frame) for frame in self.array[place]]
        return Image.fromarray(self.array[place])

    @classmethod
    def of(cls, pictures: Sequence[Any]) -> "Frames":
        """`pictures`, PIL's, as frames; those that differ from the first in size are refused by numpy."""
        if isinstance(pictures, Frames):
            return pictures
        return cls(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]))


@dataclass(frozen=True)
class Sound:
    """Samples [channels, samples] within -1 and 1, `rate` of them a second."""

    samples: NDArray[np.float32]
    rate: int

    @classmethod
    def of(cls, samples: object, rate: int) -> "Sound":
        """[samples] or [channels, samples]. Raises `InvalidRequestError` for other shapes and for none at all."""
        values = np.atleast_2d(np.asarray(samples, dtype=np.float32))
        if values.ndim != 2 or values.size == 0 or values.shape[0] > 8 or rate < 1:
            text = f"sound is {values.shape} at {rate} a second; expected [channels, samples], up to 8 channels"
            raise InvalidRequestError(text, "audio")
        return cls(np.clip(np.nan_to_num(values), -1.0, 1.0), int(rate))

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples.shape[1] / self.rate


@dataclass(frozen=True)
class Clip:
    """A film: frames, how many a second, and what is heard. `stop` is asked before each frame that is encoded."""

    frames: Frames
    fps: float
    sound: Sound | None = None
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise InvalidRequestError(f"fps is {self.fps}; expected more than 0 and at most 1000", "fps")

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.frames) / self.fps

    @property
    def rate(self) -> Fraction:
        """`fps` as players have it: 23.976 is 24000/1001."""
        whole = round(self.fps * 1001 / 1000)
        if self.fps != round(self.fps) and abs(self.fps - whole * 1000 / 1001) < 0.005:
            return Fraction(whole * 1000, 1001)
        return Fraction(self.fps).limit_denominator(10_000)

    def watched(self) -> Iterator[Pixels]:
        """Frame after frame, [height, width, 3]. Raises `AbortedError` once `stop` says so."""
        for frame in self.frames.array:
            if self.stop():
                raise AbortedError("the film is wanted no more; its file was not finished")
            yield frame
