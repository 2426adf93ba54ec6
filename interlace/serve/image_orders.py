"""OpenAI's image fields as an `Order`: each one honoured, or refused with a reason."""

from collections.abc import Sequence

from PIL import Image

from interlace.bulk.encoding import Encoding
from interlace.serve.edits import prepare_edit
from interlace.serve.errors import invalid
from interlace.serve.fields import EditFields, GenerationFields, ImageFields
from interlace.serve.lanes import Lane, Lanes
from interlace.serve.order import Order, check_prompt, make_sampling, resolve_seeds, resolve_size, resolve_steps
from interlace.serve.settings import ServeSettings

STEPS = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}  # times the model's default
_OLD_NAMES = {None: "medium", "auto": "medium", "standard": "medium", "hd": "high"}
_BACKGROUND_PREVIEWS = 3  # of asynchronous requests that don't say

_REFUSED = {
    "style": "models here have no styles; describe the style in the prompt",
    "input_fidelity": "this model has no such setting; use strength where a model takes it",
    "complexity": "models here plan nothing beforehand; use quality or num_inference_steps",
    "frame_count": "GIF is not made here; use png, webp or jpeg, or a video model with /v1/videos",
    "frame_duration_ms": "GIF is not made here; use png, webp or jpeg, or a video model with /v1/videos",
    "svg": "SVG is not made here; use png, webp or jpeg",
    "markup": "models here read no markup; use mask, or say it in the prompt",
}


def generation_order(fields: GenerationFields, lanes: Lanes) -> Order:
    """Raises `ApiError` or `InvalidRequestError` for what can't be done."""
    lane = lanes.choose(fields.model, edit=False)
    size = resolve_size(fields.size, fields.width, fields.height, lane, lanes.settings)
    return _order(fields, lane, lanes.settings, size)


def edit_order(fields: EditFields, images: Sequence[Image.Image], mask: Image.Image | None, lanes: Lanes) -> Order:
    """As `generation_order`. `images` are RGB, `mask` is RGBA, transparent where to edit. Runs in a worker."""
    lane = lanes.choose(fields.model, edit=True)
    size = resolve_size(fields.size, fields.width, fields.height, lane, lanes.settings)
    edit = prepare_edit(images, mask, lane, size, lanes.settings)
    order = _order(fields, lane, lanes.settings, edit.size, edit.images, edit.inputs)
    return Order(**{**vars(order), "paste": edit.paste})


def _order(
    fields: ImageFields,
    lane: Lane,
    settings: ServeSettings,
    size: tuple[int | None, int | None],
    images: Sequence[Image.Image] = (),
    inputs: dict[str, Image.Image] | None = None,
) -> Order:
    _refuse(fields, lane)
    check_prompt(fields.prompt, settings)
    n = fields.n or 1
    if n > settings.max_n:
        raise invalid(f"n is {n}; this server allows 1 to {settings.max_n}", "n")
    quality = _OLD_NAMES.get(fields.quality, fields.quality) or "medium"
    steps = resolve_steps(fields.num_inference_steps, STEPS[quality], lane, settings)
    sampling = make_sampling(fields, lane, settings, n=n, size=size, num_steps=steps)
    order = Order(
        lane=lane,
        prompt=fields.prompt,
        sampling=sampling,
        seeds=resolve_seeds(fields, n),
        size=_known_size(size, lane),
        num_steps=steps,
        images=images,
        inputs=inputs or {},
        encoding=_encoding(fields),
        num_previews=_previews(fields),
        num_image_tokens=sum((image.width // 16) * (image.height // 16) for image in images),
        user=fields.safety_identifier or fields.user,
        facts={"quality": quality, "background": "opaque"},
    )
    order.check()
    return order


def _known_size(size: tuple[int | None, int | None], lane: Lane) -> tuple[int | None, int | None]:
    return size if all(size) else (lane.default("width"), lane.default("height"))


def _previews(fields: ImageFields) -> int:
    if fields.partial_images is None:
        return _BACKGROUND_PREVIEWS if fields.run_async else 0
    return fields.partial_images


def _encoding(fields: ImageFields) -> Encoding:
    name = fields.output_format or "png"
    if name == "png":
        if fields.output_compression not in (None, 100):
            text = f"output_compression is {fields.output_compression}; png loses nothing: use jpeg or webp"
            raise invalid(text, "output_compression")
        return Encoding("png")
    if name not in ("jpeg", "webp"):
        raise invalid(f"output_format is {name!r}; expected png, webp or jpeg", "output_format")
    quality = 100 if fields.output_compression is None else max(fields.output_compression, 1)
    return Encoding("jpeg" if name == "jpeg" else "webp", quality)


def _refuse(fields: ImageFields, lane: Lane) -> None:
    if lane.makes_video:
        raise invalid(f"{lane.name} makes videos; use /v1/videos", "model")
    for name, reason in _REFUSED.items():
        if getattr(fields, name, None) is not None:
            raise invalid(f"{name} is {getattr(fields, name)!r}; {reason}", name, "unsupported_field")
    if fields.background == "transparent":
        raise invalid("background is 'transparent'; models here make opaque pictures: leave it out", "background")
    if fields.stream and fields.run_async:
        raise invalid("stream and async are both set; expected one of them", "stream")
    if fields.partial_images and not (fields.stream or fields.run_async):
        raise invalid("partial_images without stream; set stream to true", "partial_images")
    if fields.stream and fields.response_format == "url":
        raise invalid("response_format is 'url' in a stream; events carry b64_json: leave it out", "response_format")
    if fields.quality not in (None, "auto") and fields.num_inference_steps:
        raise invalid("quality and num_inference_steps are given; expected one of them", "quality")
