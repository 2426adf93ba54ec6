"""What a film looks like without playing it: the picture in its middle, small, and a sheet of several."""

import io
from collections.abc import Sequence

from PIL import Image

from interlace.media.clip import Frames

_THUMBNAIL_SIDE = 512  # pixels, of the longer side at most
_TILE_SIDE, _MAX_TILES = 256, 25


def middle_frame(frames: Sequence[Image.Image]) -> Image.Image:
    """What stands for a film in lists and contact sheets."""
    return frames[len(frames) // 2]


def thumbnail(frames: Sequence[Image.Image]) -> bytes:
    """The middle frame as WebP, its longer side at most 512 pixels."""
    return _file(_small(middle_frame(frames), _THUMBNAIL_SIDE), "WEBP", quality=85)


def sprite_sheet(frames: Frames) -> bytes:
    """Up to 25 frames, evenly spread, in rows from left to right, as JPEG: what a player shows beside its bar."""
    count = min(len(frames), _MAX_TILES)
    chosen = [round(number * (len(frames) - 1) / max(count - 1, 1)) for number in range(count)]
    across = next(side for side in range(1, 6) if side * side >= count)
    width, height = _small(frames[0], _TILE_SIDE).size
    sheet = Image.new("RGB", (across * width, -(-count // across) * height))
    for place, number in enumerate(chosen):
        tile = _small(frames[number], _TILE_SIDE)
        sheet.paste(tile, (place % across * width, place // across * height))
    return _file(sheet, "JPEG", quality=88)


def _small(picture: Image.Image, side: int) -> Image.Image:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    return small


def _file(picture: Image.Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=quality)
    return buffer.getvalue()
