"""bulk/contact_sheet.py: one JPEG of a sensible size, whatever the number and shape of the images."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from interlace.bulk.report.contact_sheet import MAX_TILES, _font, _wrap, write_contact_sheet


def images(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> list[dict[str, Any]]:
    for number in range(count):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")
    return [{"file": f"{number}.png", "prompt": "a " * 200, "seed": number} for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 7, MAX_TILES, MAX_TILES + 1, 150])
def test_any_number_of_images_fits(tmp_path: Path, count: int) -> None:
    path = write_contact_sheet(tmp_path, images(tmp_path, count), "title")
    assert path is not None
    with Image.open(path) as sheet:
        sheet.load()
        assert max(sheet.size) < 4000


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (900, 2), (640, 480)])
def test_any_shape_of_image_fits(tmp_path: Path, size: tuple[int, int]) -> None:
    assert write_contact_sheet(tmp_path, images(tmp_path, 2, size), "title") is not None


def test_files_that_are_gone_or_broken_are_left_out(tmp_path: Path) -> None:
    records = images(tmp_path, 3)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"not a picture")
    assert write_contact_sheet(tmp_path, records, "title") is not None
    assert write_contact_sheet(tmp_path, records[:2], "title") is None


@pytest.mark.parametrize("text", ["", "a", "word " * 50, "x" * 300, "圆" * 100])
def test_captions_stay_within_their_width(text: str) -> None:
    font = _font(13)
    lines = _wrap(text, font, 224, 2)
    assert 1 <= len(lines) <= 2
    assert all(font.getlength(line) <= 224 for line in lines)
