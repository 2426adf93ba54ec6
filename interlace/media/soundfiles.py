"""Sound files and films' sound as samples: WAV by the standard library, others by soundfile or PyAV where installed."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from interlace.errors import InvalidRequestError
from interlace.media.sound import MAX_SECONDS, Samples, decode_wav, resampled

_INSTALL = 'pip install "interlace[media]"'


def sound_samples(value: Any, rate: int) -> Samples:
    """One channel [samples] at `rate`, within -1 and 1, of a sound file (a path or its bytes), an array at that rate,
    or (array, its rate).

    Raises `InvalidRequestError` for what is no such thing, is empty, or lasts longer than `MAX_SECONDS`.
    """
    if isinstance(value, (str, Path)):
        value = _read(Path(value))
    if isinstance(value, (bytes, bytearray)):
        value = decode_sound(bytes(value))
    given, own = value if isinstance(value, tuple) and len(value) == 2 else (value, rate)
    try:
        samples = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        text = f"audio is a {type(given).__name__}; expected a sound file, an array of samples, or (samples, rate)"
        raise InvalidRequestError(text, "audio") from error
    if samples.ndim == 2:
        samples = samples.mean(axis=int(samples.shape[0] > samples.shape[1]), dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        shape = samples.shape
        raise InvalidRequestError(f"audio has the shape {shape}; expected finite samples [samples]", "audio")
    if not isinstance(own, (int, float)) or not 1000 <= own <= 384_000:
        raise InvalidRequestError(f"audio has a rate of {own!r}; expected 1000 to 384000 samples a second", "audio")
    if samples.size / own > MAX_SECONDS:
        text = f"the sound lasts {samples.size / own:.0f} s; expected at most {MAX_SECONDS:.0f} s: cut it"
        raise InvalidRequestError(text, "audio")
    return resampled(samples, float(own), rate)


def decode_sound(data: bytes) -> tuple[Samples, int]:
    """[samples, channels] within -1 and 1 and their rate, of WAV, FLAC, Ogg, MP3 and whatever FFmpeg reads.

    Raises `InvalidRequestError` for what is no sound, is longer than `MAX_SECONDS`, or needs a package that is missing.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        try:
            return decode_wav(data)
        except InvalidRequestError as error:  # floating point, 24 bits, ...
            return _others(data, str(error))
    return _others(data, "the sound is no WAV file with PCM samples")


def film_sound(data: bytes) -> tuple[Samples, int] | None:
    """The sound track of a film file as `decode_sound` gives it; None where it has none. Raises likewise."""
    try:
        return _by_av(data)
    except ImportError as error:
        raise InvalidRequestError(f"a film's sound is read by PyAV, which is not installed: {_INSTALL}",
                                  "video") from error  # fmt: skip


def _others(data: bytes, words: str) -> tuple[Samples, int]:
    missing = 0
    for read in (_by_soundfile, _by_av):
        try:
            found = read(data)
        except ImportError:
            missing += 1
        except InvalidRequestError:
            raise
        except Exception:  # libsndfile and FFmpeg say in many ways that it is none of theirs
            continue
        else:
            if found is not None:
                return found
    hint = f"; other kinds are read by soundfile and PyAV: {_INSTALL}" if missing else ", nor any that can be decoded"
    raise InvalidRequestError(f"{words}{hint}", "audio")


def _by_soundfile(data: bytes) -> tuple[Samples, int]:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        _check(file.frames / file.samplerate)
        return file.read(dtype="float32", always_2d=True), int(file.samplerate)


def _by_av(data: bytes) -> tuple[Samples, int] | None:
    import av

    pieces: list[Samples] = []
    count, rate = 0, 0
    with av.open(io.BytesIO(data), "r") as container:
        if not container.streams.audio:
            return None
        rate = int(container.streams.audio[0].rate)
        as_floats = av.AudioResampler(format="fltp", layout=container.streams.audio[0].layout, rate=rate)
        for frame in container.decode(audio=0):
            for one in as_floats.resample(frame):
                pieces.append(one.to_ndarray().T.astype(np.float32))
                count += len(pieces[-1])
                _check(count / rate)
    return (np.concatenate(pieces), rate) if count else None


def _check(seconds: float) -> None:
    if seconds > MAX_SECONDS:
        text = f"the sound lasts {seconds:.0f} s or more; expected at most {MAX_SECONDS:.0f} s: cut it"
        raise InvalidRequestError(text, "audio")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"can't read the sound {path}: {error.strerror}", "audio") from error
