"""Animated WebP and GIF, by Pillow. Both have a place for how the film was made."""

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from interlace.media.clip import Clip
from interlace.media.formats.pictures import exif_of

_WEBP_QUALITY = 85


class _Reel(Image.Image):
    """The frames after the first, one at a time, for Pillow, which would hold them all."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self._frames = clip.watched()
        self._at = -1
        next(self._frames)
        self.n_frames = len(clip.frames) - 1

    def seek(self, frame: int) -> None:
        while self._at < frame:
            picture = Image.fromarray(next(self._frames))
            self._at += 1
            self.im, self._mode, self._size = picture.im, picture.mode, picture.size


def webp(clip: Clip, record: Mapping[str, object]) -> bytes:
    """Animated WebP, endless; `record` is in its EXIF."""
    buffer = io.BytesIO()
    facts = {"quality": _WEBP_QUALITY, "method": 3, "exif": exif_of(record)}
    _save(clip, buffer, "WEBP", duration=1000 / clip.fps, **facts)
    return buffer.getvalue()


def gif(clip: Clip, record: Mapping[str, object]) -> bytes:
    """GIF, endless, in 256 colours a frame; its clock has hundredths of a second."""
    ends = [round(100 * (number + 1) / clip.fps) for number in range(len(clip.frames))]
    durations = [10 * max(end - start, 1) for start, end in zip([0, *ends], ends, strict=False)]
    buffer = io.BytesIO()
    comment = json.dumps(record, ensure_ascii=False).encode() if record else b""
    _save(clip, buffer, "GIF", duration=durations, comment=comment)
    return buffer.getvalue()


def _save(clip: Clip, buffer: io.BytesIO, kind: str, **options: Any) -> None:
    rest = [_Reel(clip)] if len(clip.frames) > 1 else []
    clip.frames[0].save(buffer, kind, save_all=True, append_images=rest, loop=0, **options)
