"""Sound files: WAV and bare samples by the standard library; FLAC, Vorbis and Opus by soundfile (libsndfile)."""

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

from interlace.media.clip import Sound
from interlace.media.formats.containers import at_rate
from interlace.media.sound import encode_wav, pcm16

_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_OGG_RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_FLAC_RATES = (*_OGG_RATES, 192_000)


def wav(sound: Sound, record: Mapping[str, object]) -> bytes:
    """16 bits; title and comment in a LIST chunk at the end."""
    data = encode_wav(sound.samples, sound.rate)
    texts = b"".join(_info(tag, text) for tag, text in (("INAM", _title(record)), ("ICMT", _json(record))) if text)
    if not texts:
        return data
    chunk = b"LIST" + struct.pack("<I", len(texts) + 4) + b"INFO" + texts
    return data[:4] + struct.pack("<I", len(data) + len(chunk) - 8) + data[8:] + chunk


def pcm(sound: Sound, record: Mapping[str, object]) -> bytes:
    """Bare little-endian 16-bit samples, channels side by side; no place for `record`, nor for the rate."""
    return pcm16(sound.samples)


def flac(sound: Sound, record: Mapping[str, object]) -> bytes:
    """FLAC of 16 bits, at the sound's own rate where FLAC has it."""
    return _by_soundfile(at_rate(sound, (sound.rate,) if 1 <= sound.rate <= 192_000 else _FLAC_RATES), record, "FLAC")


def ogg(sound: Sound, record: Mapping[str, object]) -> bytes:
    """Vorbis in Ogg."""
    return _by_soundfile(at_rate(sound, _OGG_RATES), record, "OGG", "VORBIS")


def opus(sound: Sound, record: Mapping[str, object]) -> bytes:
    """Opus in Ogg."""
    return _by_soundfile(at_rate(sound, _OPUS_RATES), record, "OGG", "OPUS")


def _by_soundfile(sound: Sound, record: Mapping[str, Any], kind: str, subtype: str | None = None) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    channels = len(sound.samples)
    with soundfile.SoundFile(buffer, "w", sound.rate, channels, subtype=subtype, format=kind) as file:
        for name, text in (("title", _title(record)), ("comment", _json(record))):
            if text:
                setattr(file, name, text)
        for start in range(0, sound.samples.shape[1], sound.rate * 10):  # libsndfile's Vorbis fails on long pieces
            file.write(sound.samples[:, start : start + sound.rate * 10].T)
    return buffer.getvalue()


def _title(record: Mapping[str, Any]) -> str:
    return str(record.get("prompt") or "").replace("\0", "")


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) if record else ""


def _info(tag: str, text: str) -> bytes:
    """One text of a WAV's INFO: its tag, its length, its bytes with a zero behind, padded to an even number."""
    data = text.encode() + b"\0"
    return tag.encode() + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
