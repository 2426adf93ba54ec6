"""Outputs as files, previews as pictures. Runs in workers."""

from dataclasses import replace
from typing import Any

from PIL import Image

from interlace import __version__
from interlace.media.clip import Sound
from interlace.media.files import clips_of
from interlace.media.thumbnails import sprite_sheet, thumbnail
from interlace.request import Output
from interlace.serve.jobs.job import Event, File, Part, RequestJob
from interlace.serve.orders.order import Order


def encode_output(job: RequestJob, part: Part, output: Output) -> tuple[File, tuple[int, int] | None]:
    """The file of one part, and its width and height in pixels. Raises `AbortedError` once the job is over."""
    order = job.order
    if order.media is not None:
        return _played(job, part, output)
    if not output.images:
        raise TypeError(f"{order.lane.name} made no picture; this server has no form for what it made")
    picture = _pasted(output.images[0], order)
    data = order.encoding.encode(picture, _record(order, part, picture.size))
    return File(data, order.encoding.format.media_type), picture.size


def _played(job: RequestJob, part: Part, output: Output) -> tuple[File, tuple[int, int] | None]:
    """A film, with its stills, or a sound."""
    order = job.order
    assert order.media is not None
    clips = clips_of(output.frames, output.fps, output.audio, output.sample_rate)
    if not clips:
        raise TypeError(f"{order.lane.name} made neither film nor sound")
    clip = clips[0]
    if isinstance(clip, Sound):
        return File(order.media.encode(clip, _record(order, part)), order.media.media_type), None
    size = clip.frames.size
    data = order.media.encode(replace(clip, stop=lambda: job.is_over), _record(order, part, size))
    part.stills["thumbnail"] = File(thumbnail(clip.frames), "image/webp")
    part.stills["spritesheet"] = File(sprite_sheet(clip.frames), "image/jpeg")
    return File(data, order.media.media_type), size


def encode_preview(event: Event, order: Order) -> bytes:
    """A preview, scaled up to what the picture will be, in its format. Coarse: latents hold one pixel of 8 by 8.

    The file says what it is a preview of, and after which step.
    """
    preview, part = event.preview, event.part
    assert part is not None
    width, height = order.size if all(order.size) else part.size or (preview.width * 8, preview.height * 8)
    picture = preview.resize((width or 1, height or 1), Image.Resampling.BICUBIC)
    return order.encoding.encode(picture, {**_record(order, part, picture.size), "partial_image_at_step": event.step})


def _pasted(picture: Image.Image, order: Order) -> Image.Image:
    """Where there is a mask that the model can't take: outside of it the picture stays as it was."""
    if order.paste is None:
        return picture
    original, mask = (part.resize(picture.size) for part in order.paste)
    return Image.composite(picture.convert("RGB"), original, mask)


def _record(order: Order, part: Part, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """How it was made, for the file."""
    resolved = order.lane.omni.arguments.resolved(order.request)
    return {
        "prompt": order.prompt,
        "seed": part.seed,
        **resolved,
        **({"width": size[0], "height": size[1]} if size else {}),
        "model": order.lane.name,
        "interlace": __version__,
    }
