"""Pictures that rows name: where they are, what identifies them, and how they become PIL images."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps


@dataclass(frozen=True)
class ImageSource:
    """A picture to be edited, not read before it is needed."""

    path: Path

    @property
    def key(self) -> str:
        """What tells this picture from another; part of an edit's request key."""
        return f"{self.path}:{self.path.stat().st_size}"

    def load(self) -> Image.Image:
        """The picture, upright, in RGB. Raises OSError where it can't be read."""
        with Image.open(self.path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
