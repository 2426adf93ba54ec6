"""Films as frames: lists of pictures, animated files that Pillow reads, and others where PyAV is installed."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence, UnidentifiedImageError

from interlace.errors import InvalidRequestError

FPS = 2.0  # frames a second that language models look at
MAX_FRAMES = 768


def film_frames(value: Any) -> list[Image.Image]:
    """RGB frames at `FPS` of a film: pictures at that rate, or a file (a path or its bytes).

    Raises `InvalidRequestError` for what is none, or has more than `MAX_FRAMES` such frames.
    """
    if isinstance(value, (str, Path)):
        try:
            value = Path(value).read_bytes()
        except OSError as error:
            raise InvalidRequestError(f"can't read the film {value}: {error.strerror}", "video") from error
    if isinstance(value, (bytes, bytearray)):
        value = _decoded(bytes(value))
    if not isinstance(value, Sequence) or not value or not all(isinstance(one, Image.Image) for one in value):
        got = type(value).__name__
        raise InvalidRequestError(f"video is a {got}; expected pictures, or an animated or film file", "video")
    if len(value) > MAX_FRAMES:
        text = f"the film has {len(value)} frames at {FPS:g} a second; expected at most {MAX_FRAMES}: cut it"
        raise InvalidRequestError(text, "video")
    size = value[0].size
    return [one.convert("RGB") if one.size == size else one.convert("RGB").resize(size) for one in value]


def film_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a film file's frames, nothing decoded; None where that can't be told."""
    try:
        return Image.open(io.BytesIO(data)).size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        pass
    try:
        import av

        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            return int(stream.width), int(stream.height)
    except (ImportError, OSError, ValueError, IndexError):
        return None


def _decoded(data: bytes) -> list[Image.Image]:
    try:
        picture = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        return _by_av(data)
    except Image.DecompressionBombError as error:
        raise InvalidRequestError(f"the film's pictures are too large: {error}", "video") from error
    try:
        return list(_sampled(picture))
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidRequestError(f"the film is broken: {error}", "video") from error


def _sampled(picture: Image.Image) -> Iterator[Image.Image]:
    """The frames of an animation that are on show at each tick of `FPS`."""
    shown, due = 0.0, 0.0
    for count, frame in enumerate(ImageSequence.Iterator(picture)):
        if count > MAX_FRAMES * 64:
            raise InvalidRequestError("the animation has too many frames; cut it", "video")
        shown += float(frame.info.get("duration") or 100) / 1000
        while due < shown:
            yield frame.convert("RGB")
            due += 1 / FPS


def _by_av(data: bytes) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        text = "the film is no animation that Pillow reads; expected GIF, WebP or PNG frames, or"
        text = f'{text} pip install "interlace[media]"'
        raise InvalidRequestError(text, "video") from error
    frames: list[Image.Image] = []
    try:
        with av.open(io.BytesIO(data), "r") as container:
            for frame in container.decode(video=0):
                if frame.time is None or frame.time >= len(frames) / FPS:
                    frames.append(frame.to_image())
                if len(frames) > MAX_FRAMES:
                    break
    except (OSError, ValueError, IndexError) as error:
        raise InvalidRequestError(f"the film can't be decoded: {error}", "video") from error
    return frames
