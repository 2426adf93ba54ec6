"""The pictures of an edit, from the files of a form and the fields of JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from interlace.serve.http.errors import invalid
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.jobs.models import Lanes
from interlace.serve.orders.fields import EditFields
from interlace.serve.orders.images import edit_order
from interlace.serve.orders.order import Order
from interlace.serve.settings import ServeSettings

Files = Mapping[str, Sequence[bytes]]


def uploaded_edit(fields: EditFields, files: Files, lanes: Lanes) -> Order:
    """Raises `ApiError` for pictures that are none, too many or too large. Runs in a worker."""
    lanes.choose(fields.model, edit=True)
    for name in files.keys() - {"image", "images", "mask"}:
        raise invalid(f"unknown file {name!r}; expected image, image[] or mask", name, "unknown_field")
    return edit_order(fields, *_pictures(fields, files, lanes.settings), lanes)


def _pictures(
    fields: EditFields, files: Files, settings: ServeSettings
) -> tuple[list[Image.Image], Image.Image | None]:
    if fields.image is not None and fields.images is not None:
        raise invalid("image and images are both given; expected one of them", "images")
    listed = _listed(fields.images if fields.images is not None else fields.image)
    given = [*files.get("image", []), *files.get("images", []), *listed]
    if len(given) > settings.max_input_images:
        raise invalid(f"{len(given)} pictures; this server allows 1 to {settings.max_input_images}", "image")
    images = [decode_image(image_bytes(one, settings), settings) for one in given]
    masks = files.get("mask", []) or _listed(fields.mask)
    if len(masks) > 1:
        raise invalid(f"{len(masks)} masks; expected one, for the first picture", "mask")
    mask = decode_image(image_bytes(masks[0], settings, "mask"), settings, "mask", alpha=True) if masks else None
    return images, mask


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
