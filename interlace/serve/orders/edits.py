"""Pictures to be edited, made ready for one model: how many, how large, and where the mask goes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from interlace.serve.http.errors import invalid
from interlace.serve.jobs.models import Lane
from interlace.serve.orders.sizes import Sides, fit
from interlace.serve.settings import ServeSettings


@dataclass(frozen=True)
class Edit:
    """What goes into the pipeline, the size that comes out, and what is put together after."""

    images: Sequence[Image.Image]
    size: Sides
    inputs: dict[str, Image.Image] = field(default_factory=dict)
    paste: tuple[Image.Image, Image.Image] | None = None


def prepare_edit(
    images: Sequence[Image.Image], mask: Image.Image | None, lane: Lane, size: Sides, settings: ServeSettings
) -> Edit:
    """`mask` is RGBA, transparent where to edit; None edits everything. Raises `ApiError` for what the model can't do.

    A size that isn't given is the first picture's, within the model's limits; where the model has none it decides.
    """
    _check_count(images, lane, settings)
    alpha = None if mask is None else _edited(mask, images[0])
    if not all(size) and "max_size" in lane.model.limits:
        size = fit(images[0].size, lane.model.limits)
    most = min(settings.max_image_size, lane.model.limits.get("max_size", settings.max_image_size))
    box = (min(size[0] or most, most), min(size[1] or most, most))
    ready = [_within(image, box, lane) for image in images]
    if alpha is None:
        return Edit(_together(ready, lane), size)
    if lane.takes("mask_image"):
        return Edit(_together(ready, lane), size, {"mask_image": alpha.resize(ready[0].size)})
    return Edit(_together(ready, lane), size, paste=(images[0], alpha))


def _check_count(images: Sequence[Image.Image], lane: Lane, settings: ServeSettings) -> None:
    if not images:
        raise invalid("image is missing; expected a file, or base64 in JSON", "image", "missing_field")
    if len(images) > settings.max_input_images:
        raise invalid(f"{len(images)} pictures; this server allows 1 to {settings.max_input_images}", "image")
    if len(images) > 1 and not lane.takes_several:
        raise invalid(f"{len(images)} pictures; {lane.pipeline_name} edits one", "image", "too_many_images")


def _edited(mask: Image.Image, image: Image.Image) -> Image.Image:
    """White where to edit."""
    if mask.size != image.size:
        text = f"mask is {mask.width}x{mask.height}, the picture {image.width}x{image.height}; expected equal sizes"
        raise invalid(text, "mask")
    return mask.getchannel("A").point(lambda alpha: 255 - alpha)


def _within(image: Image.Image, box: tuple[int, int], lane: Lane) -> Image.Image:
    """Scaled into `box`, up only where it would be less than the model's smallest picture."""
    multiple = lane.model.limits.get("multiple_of", 1)
    scale = min(box[0] / image.width, box[1] / image.height)
    if "max_size" not in lane.model.limits:
        scale = min(scale, 1.0)
    if scale == 1.0:
        return image
    width, height = (max(multiple, round(side * scale / multiple) * multiple) for side in image.size)
    return image.resize((min(width, box[0]), min(height, box[1])), Image.Resampling.LANCZOS)


def _together(images: list[Image.Image], lane: Lane) -> list[Image.Image]:
    """Kontext models see several pictures side by side as one."""
    if len(images) == 1 or not lane.is_kontext:
        return images
    multiple = lane.model.limits.get("multiple_of", 1)
    height = max(images[0].height // len(images) // multiple, 1) * multiple if len(images) > 2 else images[0].height
    widths = [max(image.width * height // image.height // multiple, 1) * multiple for image in images]
    sheet = Image.new("RGB", (sum(widths), height), "white")
    for i, image in enumerate(images):
        sheet.paste(image.resize((widths[i], height), Image.Resampling.LANCZOS), (sum(widths[:i]), 0))
    return [sheet]
