"""OpenAI's image fields as an `Order`: each one honoured, or refused with a reason."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from interlace.errors import InvalidRequestError
from interlace.media.encode import Encoding
from interlace.serve.http.errors import invalid
from interlace.serve.jobs.models import Lane, Lanes
from interlace.serve.orders.edits import prepare_edit
from interlace.serve.orders.fields import EditFields, GenerationFields, ImageFields
from interlace.serve.orders.order import Order, check_prompt, make_request, make_sampling, resolve_steps
from interlace.serve.orders.sizes import named_as_sent, resolve_size
from interlace.serve.settings import ServeSettings

STEPS = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}  # times the model's default
_OLD_NAMES = {None: "medium", "auto": "medium", "standard": "medium", "hd": "high"}
_BACKGROUND_PREVIEWS = 3  # of asynchronous requests that don't say


def generation_order(fields: GenerationFields, lanes: Lanes) -> Order:
    """Raises `ApiError` or `InvalidRequestError` for what can't be done."""
    lane = lanes.choose(fields.model, edit=False)
    size = resolve_size(fields, lane, lanes.settings)
    return _order(fields, lane, lanes.settings, size)


def edit_order(fields: EditFields, images: Sequence[Image.Image], mask: Image.Image | None, lanes: Lanes) -> Order:
    """As `generation_order`. `images` are RGB, `mask` is RGBA, transparent where to edit. Runs in a worker."""
    lane = lanes.choose(fields.model, edit=True)
    size = resolve_size(fields, lane, lanes.settings)
    edit = prepare_edit(images, mask, lane, size, lanes.settings)
    order = _order(fields, lane, lanes.settings, edit.size, edit.images, edit.inputs)
    return replace(order, paste=edit.paste)


def _order(
    fields: ImageFields,
    lane: Lane,
    settings: ServeSettings,
    size: tuple[int | None, int | None],
    images: Sequence[Image.Image] = (),
    inputs: dict[str, Image.Image] | None = None,
) -> Order:
    _ignore(fields, settings)
    _refuse(fields, lane)
    if fields.prompt.strip() or fields.needs_words:
        check_prompt(fields.prompt, settings)
    n = fields.n or 1
    if n > settings.max_n:
        raise invalid(f"n is {n}; this server allows 1 to {settings.max_n}", "n")
    quality = _OLD_NAMES.get(fields.quality, fields.quality) or "medium"
    steps = resolve_steps(fields.num_inference_steps, STEPS[quality], lane, settings)
    sampling = make_sampling(fields, lane, settings, n=n, size=size, num_steps=steps)
    order = Order(
        lane=lane,
        request=make_request(lane, fields.prompt if lane.takes("prompt") else None, sampling, images, inputs),
        size=_known_size(size, lane),
        num_steps=steps,
        encoding=_encoding(fields),
        num_previews=_previews(fields),
        num_image_tokens=sum((image.width // 16) * (image.height // 16) for image in images),
        user=fields.safety_identifier or fields.user,
        facts={"quality": quality, "background": "opaque"},
        warnings=(*fields.warnings, *lane.of_text(fields.prompt, sampling, strict=settings.strict_fields)),
    )
    try:
        order.check()
    except InvalidRequestError as error:
        raise named_as_sent(error, fields) from error
    return order


def _known_size(size: tuple[int | None, int | None], lane: Lane) -> tuple[int | None, int | None]:
    return size if all(size) else (lane.default("width"), lane.default("height"))


def _previews(fields: ImageFields) -> int:
    if fields.partial_images is None:
        return _BACKGROUND_PREVIEWS if fields.run_async else 0
    return fields.partial_images


def _encoding(fields: ImageFields) -> Encoding:
    name = fields.output_format or "png"
    encoding = Encoding(name)
    if encoding.format.quality is None:
        return encoding
    return Encoding(name, 100 if fields.output_compression is None else max(fields.output_compression, 1))


def _refuse(fields: ImageFields, lane: Lane) -> None:
    if lane.makes_video:
        raise invalid(f"{lane.name} makes videos; use /v1/videos", "model")
    if lane.makes == "sound":
        raise invalid(f"{lane.name} makes sound; use /v1/audio/generate", "model")
    if fields.background == "transparent":
        raise invalid("background is 'transparent'; models here make opaque pictures: leave it out", "background")
    if fields.stream and fields.run_async:
        raise invalid("stream and async are both set; expected one of them", "stream")
    if fields.response_format == "file" and (fields.n or 1) > 1:
        raise invalid("response_format is 'file', which holds one picture; leave n out", "response_format")


def _ignore(fields: ImageFields, settings: ServeSettings) -> None:
    """Fields that go together with others only are ignored without them. Raises `ApiError` with `strict_fields`."""
    if fields.partial_images and not (fields.stream or fields.run_async):
        _in_vain(fields, "partial_images", "there are none without stream: set it to true", settings)
        fields.partial_images = None
    if fields.stream and fields.response_format not in (None, "b64_json"):
        _in_vain(fields, "response_format", "events carry b64_json", settings)
        fields.response_format = None
    if fields.quality and fields.num_inference_steps:
        if _OLD_NAMES.get(fields.quality, fields.quality) != "medium":
            _in_vain(fields, "quality", "num_inference_steps is given", settings)
        fields.quality = None
    if fields.output_compression not in (None, 100) and (fields.output_format or "png") == "png":
        _in_vain(fields, "output_compression", "png loses nothing; use jpeg or webp", settings)


def _in_vain(fields: ImageFields, name: str, reason: str, settings: ServeSettings) -> None:
    if settings.strict_fields:
        raise invalid(f"{name} is {getattr(fields, name)!r}; {reason}", name, "unsupported_field")
    fields.warnings.append(f"{name} is ignored: {reason}")
