"""The contact sheet: thumbnails of a run with captions under them, on one JPEG."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from interlace.bulk.made import noun
from interlace.bulk.output.disk import replace_file
from interlace.bulk.output.stores import read_stored
from interlace.media.stills import picture_of

logger = logging.getLogger(__name__)

CONTACT_SHEET = "contact_sheet.jpg"
MAX_TILES = 60

_TILE, _GAP, _MARGIN = 224, 20, 32  # pixels
_CAPTION_LINES, _LINE, _HEADER = 3, 18, 64
_PAPER, _FRAME, _INK, _FAINT = "#f6f5f2", "#ffffff", "#26251f", "#85827a"

_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc", "Arial.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_contact_sheet(folder: Path, records: Sequence[Mapping[str, object]], title: str) -> Path | None:
    """Lays out the images of `records` (lines of the manifest); evenly chosen ones where there are very many.

    Returns the path of the sheet, or None where there was no image to show.
    """
    step = max(1.0, len(records) / MAX_TILES)
    chosen = [records[int(position * step)] for position in range(min(MAX_TILES, len(records)))]
    tiles = [(image, record) for record in chosen if (image := _thumbnail(folder, record)) is not None]
    if not tiles:
        return None
    shown = "" if len(chosen) == len(records) else f" · {len(chosen)} of {len(records)} images"
    buffer = io.BytesIO()
    draw_sheet(tiles, title + shown).save(buffer, format="JPEG", quality=88)
    replace_file(folder / CONTACT_SHEET, buffer.getvalue())
    return folder / CONTACT_SHEET


def draw_sheet(tiles: Sequence[tuple[Image.Image, Mapping[str, object]]], title: str) -> Image.Image:
    """A grid of thumbnails, about four wide for every three high."""
    columns = min(len(tiles), max(1, round((len(tiles) * 1.6) ** 0.5)))
    columns = max(columns, min(len(tiles), 3))
    rows = -(-len(tiles) // columns)
    cell = _TILE + _GAP
    tall = _TILE + _CAPTION_LINES * _LINE + _GAP + 12
    size = (2 * _MARGIN + columns * cell - _GAP, _MARGIN + _HEADER + rows * tall)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading = _font(22)
    draw.text((_MARGIN, _MARGIN - 6), _wrap(title, heading, size[0] - 2 * _MARGIN, 1)[0], fill=_INK, font=heading)
    for number, (image, record) in enumerate(tiles):
        corner = (_MARGIN + number % columns * cell, _HEADER + _MARGIN // 2 + number // columns * tall)
        _draw_tile(sheet, draw, corner, image, record)
    return sheet


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    image: Image.Image,
    record: Mapping[str, Any],
) -> None:
    left, top = corner
    draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), fill=_FRAME)
    sheet.paste(image, (left + (_TILE - image.width) // 2, top + (_TILE - image.height) // 2))
    prompt = " ".join(str(record.get("prompt")).split())
    font = _font(13, prompt.isascii())
    lines = _wrap(prompt, font, _TILE, _CAPTION_LINES - 1)
    for number, line in enumerate(lines):
        draw.text((left, top + _TILE + 6 + number * _LINE), line, fill=_INK, font=font)
    name = _wrap(_facts(record), _font(11), _TILE, 1)[0]
    draw.text((left, top + _TILE + 8 + len(lines) * _LINE), name, fill=_FAINT, font=_font(11))


def _facts(record: Mapping[str, Any]) -> str:
    name = Path(record["file"]).stem
    size = f" · {record['width']}x{record['height']}" if "width" in record else ""
    length = f" · {record['seconds']:g} s" if isinstance(record.get("seconds"), (int, float)) else ""
    return f"{name}{size}{length} · seed {record.get('seed')}"


def _thumbnail(folder: Path, record: Mapping[str, Any]) -> Image.Image | None:
    if noun(record) == "texts":  # there is nothing to see
        return None
    try:
        picture = picture_of(read_stored(folder, record), str(record["file"]))
    except (OSError, ValueError) as error:
        logger.warning("%s is not on the contact sheet: %s", folder / record["file"], error)
        return None
    scale = min(_TILE / picture.width, _TILE / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # A small model's pictures are shown as they are, pixel for pixel, rather than blurred up.
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return picture.resize(size, method)


@cache
def _font(size: int, ascii_only: bool = True) -> Font:
    """The font that Pillow brings knows little beyond ASCII; for other letters the system's fonts are asked."""
    for name in () if ascii_only else _SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Breaks text into lines that fit; the last one ends in an ellipsis where there was more."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
        elif len(lines) < max_lines:
            lines.append(word)
        else:
            lines[-1] = joined + "…"
            break
    return [_shorten(line, font, width) for line in lines]


def _shorten(line: str, font: Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    body = line.removesuffix("…")
    while body and font.getlength(body + "…") > width:
        body = body[:-1]
    return body.rstrip() + "…"
