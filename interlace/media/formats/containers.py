"""MP4 and WebM by PyAV (FFmpeg): frames go to the encoder one at a time, sound beside them. And AAC and MP3 alone.

Files have equal bytes for equal frames: the number of the encoder's threads is fixed, no clock is written, and x264
runs without its macroblock tree, which weighs blocks a little otherwise in one run of a hundred.
"""

import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interlace.media.clip import Clip, Pixels, Sound
from interlace.media.sound import resampled

_THREADS = 4
_BT709 = 1  # ITU-T H.273: primaries, transfer and matrix of high definition; 1 is also the limited range of FFmpeg
_OPUS_RATE = 48_000
_AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
_MP3_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # MPEG-1 and MPEG-2


@dataclass(frozen=True)
class _Codecs:
    """What a container holds. `options` are the video encoder's."""

    container: str
    video: str
    options: Mapping[str, str]
    sound: str
    sound_rates: tuple[int, ...]
    flags: Mapping[str, str]


_MP4 = _Codecs("mp4", "libx264", {"preset": "fast", "crf": "18", "mbtree": "0"}, "aac", _AAC_RATES,
               {"movflags": "+faststart", "fflags": "+bitexact"})  # fmt: skip
_WEBM = _Codecs("webm", "libvpx-vp9", {"deadline": "good", "cpu-used": "4", "row-mt": "1", "crf": "20", "b": "0"},
                "libopus", (_OPUS_RATE,), {"fflags": "+bitexact"})  # fmt: skip


def mp4(clip: Clip, record: Mapping[str, object]) -> bytes:
    """H.264 in yuv420p, AAC beside it; the index comes first, so that players start before the file is there."""
    return _contained(clip, record, _MP4)


def webm(clip: Clip, record: Mapping[str, object]) -> bytes:
    """VP9 in yuv420p, Opus beside it."""
    return _contained(clip, record, _WEBM)


def aac(sound: Sound, record: Mapping[str, Any]) -> bytes:
    """Bare AAC (ADTS), with title and comment in ID3 before it."""
    return _bare(sound, "adts", "aac", _AAC_RATES, _texts(record), write_id3v2="1")


def mp3(sound: Sound, record: Mapping[str, object]) -> bytes:
    """MP3, with title and comment in ID3."""
    return _bare(sound, "mp3", "libmp3lame", _MP3_RATES, _texts(record))


def at_rate(sound: Sound, rates: tuple[int, ...]) -> Sound:
    """The sound at the lowest of `rates` that loses nothing, or at the highest."""
    rate = min((one for one in rates if one >= sound.rate), default=max(rates))
    if rate == sound.rate:
        return sound
    return Sound.of(np.stack([resampled(channel, sound.rate, rate) for channel in sound.samples]), rate)


def _bare(
    sound: Sound, kind: str, codec: str, rates: tuple[int, ...], texts: Mapping[str, str], **options: str
) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind, options={"fflags": "+bitexact", **options}) as container:
        container.metadata.update(texts)
        track = _Track(container, codec, at_rate(sound, rates))
        container.mux(track.until(float("inf")))
        container.mux(track.end())
    return buffer.getvalue()


def _contained(clip: Clip, record: Mapping[str, Any], codecs: _Codecs) -> bytes:
    import av

    with tempfile.TemporaryDirectory(prefix="interlace-") as folder:  # an index can be put first in real files only
        path = Path(folder) / f"film.{codecs.container}"
        with av.open(str(path), "w", format=codecs.container, options=dict(codecs.flags)) as container:
            container.metadata.update(_texts(record))
            stream: Any = container.add_stream(codecs.video, rate=clip.rate, options=dict(codecs.options))
            width, height = clip.frames.size
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            context = stream.codec_context
            context.thread_count = _THREADS
            context.color_primaries = context.color_trc = context.colorspace = context.color_range = _BT709
            track = (
                None if clip.sound is None else _Track(container, codecs.sound, at_rate(clip.sound, codecs.sound_rates))
            )
            for number, frame in enumerate(_pictures(clip), 1):
                container.mux(stream.encode(frame))
                if track is not None:
                    container.mux(track.until(number / clip.fps))
            container.mux(stream.encode(None))
            if track is not None:
                container.mux(track.until(float("inf")))
                container.mux(track.end())
        return path.read_bytes()


def _pictures(clip: Clip) -> Iterator[Any]:
    """PyAV's frames, in the colours of high definition."""
    import av

    for number, pixels in enumerate(clip.watched()):
        frame = av.VideoFrame.from_ndarray(_even(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts = number
        yield frame


def _even(pixels: Pixels) -> Pixels:
    """With the last row and column twice where there is an odd number of them: yuv420p halves both."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(pixels)


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    """Title and comment, which players show; the comment is the whole record in JSON."""
    title = {"title": str(record["prompt"])} if record.get("prompt") else {}
    return {**title, "comment": json.dumps(record, ensure_ascii=False)} if record else title


class _Track:
    """Sound on its way into a container, a piece at a time."""

    def __init__(self, container: Any, codec: str, sound: Sound) -> None:
        import av

        self._sound, self._layout = sound, {1: "mono", 2: "stereo"}.get(len(sound.samples), f"{len(sound.samples)}c")
        self._stream = container.add_stream(codec, rate=sound.rate, layout=self._layout)
        self._resampler = av.AudioResampler(self._stream.codec_context.format, self._layout, sound.rate)
        self._at = 0

    def until(self, seconds: float) -> list[Any]:
        """Packets of what is heard up to then."""
        import av

        samples = self._sound.samples
        to = samples.shape[1] if seconds == float("inf") else min(int(seconds * self._sound.rate), samples.shape[1])
        if to <= self._at:
            return []
        piece = np.ascontiguousarray(samples[:, self._at : to])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, self._at = self._sound.rate, self._at, to
        return [packet for one in self._resampler.resample(frame) for packet in self._stream.encode(one)]

    def end(self) -> list[Any]:
        """The last packets."""
        rest = [packet for one in self._resampler.resample(None) for packet in self._stream.encode(one)]
        return [*rest, *self._stream.encode(None)]
