"""Outputs as files, previews as pictures. Runs in workers."""

import io
from typing import Any

from PIL import Image

from interlace import __version__
from interlace.models.arguments import parse_prompt
from interlace.request import Output
from interlace.serve.job import File, Job, Part
from interlace.serve.order import Order

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def encode_output(job: Job, part: Part, output: Output) -> tuple[File, tuple[int, int]]:
    """The file of one part, and its width and height in pixels."""
    order = job.order
    if output.frames:
        return _film(output.frames[0], order), output.frames[0][0].size
    if not output.images:
        raise TypeError(f"{order.lane.name} made no picture; this server has no form for what it made")
    picture = _pasted(output.images[0], order)
    data = order.encoding.encode(picture, _record(order, part, picture))
    return File(data, MEDIA_TYPES[order.encoding.name]), picture.size


def encode_preview(preview: Image.Image, order: Order, size: tuple[int, int] | None) -> bytes:
    """A preview, scaled up to what the picture will be, in its format. Coarse: latents hold one pixel of 8 by 8."""
    width, height = order.size if all(order.size) else size or (preview.width * 8, preview.height * 8)
    return order.encoding.encode(preview.resize((width or 1, height or 1), Image.Resampling.BICUBIC), {})


def _pasted(picture: Image.Image, order: Order) -> Image.Image:
    """Where there is a mask that the model can't take: outside of it the picture stays as it was."""
    if order.paste is None:
        return picture
    original, mask = (part.resize(picture.size) for part in order.paste)
    return Image.composite(picture.convert("RGB"), original, mask)


def _record(order: Order, part: Part, picture: Image.Image) -> dict[str, Any]:
    """How it was made, for the file."""
    request = parse_prompt(order.prompt_item(), order.sampling_of(part.index), part.id)
    resolved = order.lane.omni.arguments.resolved(request)
    return {
        "prompt": order.prompt,
        "seed": part.seed,
        **resolved,
        "width": picture.width,
        "height": picture.height,
        "model": order.lane.name,
        "interlace": __version__,
    }


def _film(frames: list[Image.Image], order: Order) -> File:
    rate = float(order.facts.get("fps") or 16)
    buffer = io.BytesIO()
    first, *rest = frames
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=max(1, round(1000 / rate)), loop=0)
    return File(buffer.getvalue(), "image/webp")
