"""Speech on the wire: WAV or bare 16-bit samples, whole or in pieces."""

import base64
import struct

from interlace.media.clip import Sound
from interlace.media.formats.table import MediaFormat, sound_format
from interlace.media.sound import pcm16
from interlace.request import Output

IN_PIECES = ("wav", "pcm16", "pcm")  # can be sent while they are made
_UNKNOWN = 0xFFFFFFFF  # length of a file that is still being made


def spoken(output: Output, kind: str) -> bytes:
    """All that was spoken, as a file of that kind; empty where nothing was."""
    if not output.audio:
        return b""
    return format_of(kind).encode(Sound(output.audio[0], output.sample_rate or 24000), {})


def format_of(kind: str) -> MediaFormat[Sound]:
    """By the name that OpenAI's clients use. Raises `InvalidRequestError` where a package for it is missing."""
    return sound_format("pcm" if kind == "pcm16" else kind)


def piece(samples: object, kind: str, rate: int, *, first: bool) -> bytes:
    """Some samples more; the first of a WAV file with its head before them."""
    head = _head(rate) if first and kind == "wav" else b""
    return head + pcm16(samples)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _head(rate: int) -> bytes:
    """Of a WAV file with one channel of 16 bits, of unknown length."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", _UNKNOWN, b"WAVE") + form + struct.pack("<4sI", b"data", _UNKNOWN)
