"""Sound as samples and as files, by the standard library: WAV and bare PCM, 16 bits. Knows nothing of models."""

import io
import wave
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interlace.errors import InvalidRequestError

Samples = NDArray[np.float32]
MAX_SECONDS = 600.0
_WIDTHS = {1: ("u1", 128.0, 128.0), 2: ("<i2", 0.0, 2.0**15), 4: ("<i4", 0.0, 2.0**31)}  # type, zero, loudest


def resampled(samples: Samples, own: float, rate: int) -> Samples:
    """Samples at another rate: what the new one can't hold is filtered out, then points on straight lines."""
    if own == rate:
        return samples
    if own > rate:
        width = 2 * int(8 * own / rate) + 1
        at = np.arange(width) - width // 2
        kernel = np.sinc(at * rate / own) * np.hanning(width)
        samples = np.convolve(samples, (kernel / kernel.sum()).astype(np.float32), mode="same")
    count = max(round(samples.size * rate / own), 1)
    return np.interp(np.arange(count) * (own / rate), np.arange(samples.size), samples).astype(np.float32)


def decode_wav(data: bytes) -> tuple[Samples, int]:
    """[samples, channels] within -1 and 1 and their rate. Raises `InvalidRequestError` for anything but a WAV file."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate, count = file.getparams()[:4]
            raw = file.readframes(count)
    except (wave.Error, EOFError, RuntimeError) as error:
        raise InvalidRequestError(
            f"the sound is no WAV file with PCM samples: {error}; expected one", "audio"
        ) from error
    if width not in _WIDTHS or not raw or len(raw) % (width * channels):
        text = f"the WAV file has {len(raw)} bytes of {8 * width} bits and {channels} channels; expected whole samples "
        raise InvalidRequestError(f"{text}of 8, 16 or 32 bits", "audio")
    kind, zero, scale = _WIDTHS[width]
    samples = (np.frombuffer(raw, dtype=np.dtype(kind)).astype(np.float32) - np.float32(zero)) / np.float32(scale)
    return samples.reshape(-1, channels), rate


def pcm16(samples: Any) -> bytes:
    """Samples within -1 and 1, [samples] or [channels, samples], as little-endian 16-bit integers."""
    values = np.asarray(samples, dtype=np.float32)
    values = values.T if values.ndim == 2 else values
    return (np.clip(np.nan_to_num(values), -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()


def encode_wav(samples: Any, rate: int) -> bytes:
    """A WAV file of samples [samples] or [channels, samples]."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(np.asarray(samples).shape[0] if np.asarray(samples).ndim == 2 else 1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm16(samples))
    return file.getvalue()
