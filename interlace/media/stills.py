"""One still picture for any stored file: of a film the middle frame, of a sound its wave."""

import io
import zipfile
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from interlace.errors import InvalidRequestError
from interlace.media.sound import decode_wav

_WAVE_SIZE = (512, 256)  # pixels
_WAVE, _PAPER = "#3b6ea5", "#eef2f6"
_HEARD = frozenset({".flac", ".ogg", ".opus", ".mp3", ".aac", ".pcm", ".wav"})


def picture_of(data: bytes, file: str, side: int | None = None) -> Image.Image:
    """RGB. `file` is the name that says the format; a large JPEG may be read at a scale not below `side` pixels.

    Raises OSError or ValueError where the file is broken, or a package that reads it is missing.
    """
    ending = PurePath(file).suffix.lower()
    try:
        return _still(data, ending, side)
    except (OSError, ValueError):
        raise
    except Exception as error:  # decoders raise almost anything for broken files
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _still(data: bytes, ending: str, side: int | None) -> Image.Image:
    if ending in (".mp4", ".webm"):
        return _middle(data)
    if ending == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as frames:
            names = sorted(name for name in frames.namelist() if name.endswith(".png"))
            data = frames.read(names[len(names) // 2])
    if ending in _HEARD:
        return _wave(_samples(data, ending))
    with Image.open(io.BytesIO(data)) as image:
        count = getattr(image, "n_frames", 1)
        if count > 1:
            image.seek(count // 2)
        elif side is not None:
            image.draft("RGB", (side, side))
        return image.convert("RGB")


def _middle(data: bytes) -> Image.Image:
    try:
        import av
    except ImportError as error:
        raise OSError('films are read by PyAV: pip install "interlace[media]"') from error
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        wanted = (stream.frames or _count(data)) // 2
        for number, frame in enumerate(container.decode(stream)):
            if number == wanted:
                return frame.to_image()
    raise ValueError("the film has no frames")


def _count(data: bytes) -> int:
    import av

    with av.open(io.BytesIO(data), "r") as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _samples(data: bytes, ending: str) -> NDArray[np.float32]:
    """[samples] of the first channel."""
    if ending == ".pcm":
        return np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / np.float32(2**15)
    if ending == ".wav":
        try:
            return decode_wav(data)[0][:, 0]
        except InvalidRequestError as error:
            raise ValueError(str(error)) from error
    try:
        import av
    except ImportError as error:
        raise OSError('sound is read by PyAV: pip install "interlace[media]"') from error
    with av.open(io.BytesIO(data), "r") as container:
        pieces = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    if not pieces:
        raise ValueError("the sound is empty")
    samples = np.concatenate(pieces)
    scale = float(np.iinfo(samples.dtype).max) if samples.dtype.kind == "i" else 1.0
    return samples.astype(np.float32) / np.float32(scale)


def _wave(samples: NDArray[np.float32]) -> Image.Image:
    """How loud it is, from the left to the right."""
    width, height = _WAVE_SIZE
    picture = Image.new("RGB", _WAVE_SIZE, _PAPER)
    draw = ImageDraw.Draw(picture)
    loudest = max(float(np.abs(samples).max()), 1e-6)
    for x, part in enumerate(np.array_split(samples, width)):
        tall = float(np.abs(part).max()) / loudest * (height / 2 - 12) if part.size else 0.0
        draw.line((x, height / 2 - tall, x, height / 2 + tall), fill=_WAVE)
    return picture
