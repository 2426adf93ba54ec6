"""Image files that say how they were made: PNG, JPEG or WebP, with our own JSON and words that other tools read."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from interlace.errors import InvalidRequestError

# A key of just "interlace" would make Pillow, which keeps texts and header flags in one dict, read an interlaced file.
JSON_KEY = "interlace_parameters"
FormatName = Literal["png", "jpeg", "webp"]

_EXTENSIONS: dict[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_DEFAULT_QUALITY = {"jpeg": 95, "webp": 90}
_IMAGE_DESCRIPTION, _EXIF_FOLDER, _USER_COMMENT = 0x010E, 0x8769, 0x9286  # EXIF 2.32, tables 4 and 8
_UNICODE = b"UNICODE\0"  # says that a UserComment is UTF-16; readers of such texts take it to be big-endian
_MAX_JPEG_EXIF = 65_000  # a JPEG segment holds 65,533 bytes


@dataclass(frozen=True)
class Encoding:
    """A file format with its quality. Raises `InvalidRequestError` for a quality that the format doesn't have."""

    name: FormatName = "png"
    quality: int | None = None  # 1..100; None is the format's default

    def __post_init__(self) -> None:
        if self.name not in _EXTENSIONS:
            raise InvalidRequestError(
                f"the output format is {self.name!r}; expected one of {', '.join(_EXTENSIONS)}", "output_format"
            )
        if self.quality is None:
            return
        if self.name == "png":
            message = "png loses nothing and has no quality; leave out --output-quality, or take jpeg or webp"
            raise InvalidRequestError(message, "output_quality")
        if not 1 <= self.quality <= 100:
            message = f"the output quality is {self.quality}; expected 1 (small) to 100 (good)"
            raise InvalidRequestError(message, "output_quality")

    @property
    def extension(self) -> str:
        return _EXTENSIONS[self.name]

    @property
    def label(self) -> str:
        """Tells one encoding from another, in manifests."""
        quality = self.quality or _DEFAULT_QUALITY.get(self.name)
        return self.name if quality is None else f"{self.name}-{quality}"

    def encode(self, image: Image.Image, record: Mapping[str, Any]) -> bytes:
        """The file's bytes, `record` in them. Equal pictures and records give equal bytes."""
        buffer = io.BytesIO()
        quality = self.quality or _DEFAULT_QUALITY.get(self.name)
        if self.name == "png":
            # Level 1 is 2.5 times as fast as the default and a few per cent larger.
            image.save(buffer, format="PNG", compress_level=1, pnginfo=_png_texts(record))
        elif self.name == "jpeg":
            image = _without_alpha(image)
            image.save(buffer, format="JPEG", quality=quality, subsampling=0, exif=_exif(record, _MAX_JPEG_EXIF))
        else:
            image = image if image.mode in ("RGB", "RGBA") else image.convert("RGBA" if _has_alpha(image) else "RGB")
            image.save(buffer, format="WEBP", quality=quality, method=4, exif=_exif(record))
        return buffer.getvalue()


def read_parameters(file: Path | BinaryIO) -> dict[str, Any]:
    """How an image that Interlace wrote was made. Raises `InvalidRequestError` where the file does not say."""
    try:
        with Image.open(file) as image:
            text = image.info.get(JSON_KEY) or image.getexif().get(_IMAGE_DESCRIPTION)
        record = json.loads(str(text))
    except OSError as error:
        raise InvalidRequestError(f"can't read {file}: {error}") from error
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InvalidRequestError(f"{file} does not say how it was made; expected an image that Interlace wrote")
    return record


def a1111_text(record: Mapping[str, Any]) -> str:
    """Source: the `parameters` text that AUTOMATIC1111's web interface writes and many tools read."""
    lines = [str(record.get("prompt"))]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    facts = {
        "Steps": record.get("num_inference_steps"),
        "Sampler": record.get("scheduler"),
        "CFG scale": record.get("true_cfg_scale"),
        "Distilled CFG Scale": record.get("guidance_scale"),
        "Seed": record.get("seed"),
        "Size": f"{record.get('width')}x{record.get('height')}",
        "Model": record.get("model"),
        "Denoising strength": record.get("strength"),
    }
    if facts["CFG scale"] is None:
        facts["CFG scale"] = facts.pop("Distilled CFG Scale")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None))
    return "\n".join(lines)


def _png_texts(record: Mapping[str, Any]) -> PngInfo:
    chunks = PngInfo()
    chunks.add_text("parameters", a1111_text(record))
    chunks.add_itxt(JSON_KEY, json.dumps(record, ensure_ascii=False))
    return chunks


def _exif(record: Mapping[str, Any], max_bytes: int | None = None) -> bytes:
    """JSON as ImageDescription, A1111's text as UserComment. Where both don't fit: no text, then no prompts either."""
    bare = {name: value for name, value in record.items() if name not in ("prompt", "negative_prompt")}
    for content, words in ((record, a1111_text(record)), (record, None), (bare, None)):
        exif = Image.Exif()
        exif[_IMAGE_DESCRIPTION] = json.dumps(content)  # ASCII, as EXIF asks
        if words is not None:
            exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = _UNICODE + words.encode("utf-16-be")
        data = exif.tobytes()
        if max_bytes is None or len(data) <= max_bytes:
            break
    return data


def _has_alpha(image: Image.Image) -> bool:
    return image.has_transparency_data


def _without_alpha(image: Image.Image) -> Image.Image:
    """JPEG has no transparency: what shows through is white."""
    if not _has_alpha(image):
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
