"""Fields of films and sounds as an `Order`: each one honoured, or refused with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.media.formats.table import best_film, film_format, sound_format
from interlace.request import SamplingParams
from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.jobs.job import RequestJob
from interlace.serve.jobs.models import Lane, Lanes
from interlace.serve.orders.fields import DescribedSoundFields, SoundFields, VideoFields
from interlace.serve.orders.order import Order, check_prompt, make_request, make_sampling, resolve_steps
from interlace.serve.orders.sizes import named_as_sent, resolve_size

_PREVIEWS = 3
_NO_OWN_GUIDANCE = (0, 1)


def film_order(fields: VideoFields, files: Mapping[str, Sequence[bytes]], lanes: Lanes) -> Order:
    """Raises `ApiError` or `InvalidRequestError` for what can't be done. Runs in a worker: pictures are decoded."""
    lane, settings = lanes.choose(fields.model, edit=False), lanes.settings
    if lane.makes != "film":
        where = "/v1/images/generations" if lane.makes == "pictures" else "/v1/audio/generate"
        raise invalid(f"{lane.name} makes {lane.makes}; use {where}", "model", "no_video_model")
    check_prompt(fields.prompt, settings)
    media = film_format(fields.output_format) if fields.output_format else best_film()
    size = resolve_size(fields, lane, settings)
    steps = resolve_steps(fields.num_inference_steps, 1.0, lane, settings)
    images = _references(fields, files, lane, lanes)
    sampling = make_sampling(fields, lane, settings, n=1, size=size, num_steps=steps, extra=_further(fields, lane))
    sampling = replace(
        sampling, num_frames=fields.num_frames, fps=fields.fps, flow_shift=fields.flow_shift,
        seconds=float(fields.seconds) if fields.seconds else None,
    )  # fmt: skip
    frames, fps = _length(lane, fields, sampling)
    if frames > settings.max_frames:
        raise invalid(f"{frames} frames; this server allows 1 to {settings.max_frames}", "seconds")
    order = Order(
        lane=lane,
        request=make_request(lane, fields.prompt, sampling, images),
        size=size if all(size) else (lane.default("width"), lane.default("height")),
        num_steps=steps,
        num_previews=_PREVIEWS,
        seconds=f"{frames / fps:g}",
        media=media,
        user=fields.user,
        facts={"fps": fps},
        warnings=(*fields.warnings, *lane.of_text(fields.prompt, sampling, strict=settings.strict_fields)),
    )
    return _checked(order, fields)


def sound_order(fields: SoundFields | DescribedSoundFields, lanes: Lanes) -> Order:
    """As `film_order`, of a model that makes sound."""
    lane, settings = lanes.choose(fields.model, edit=False), lanes.settings
    if lane.makes != "sound":
        where = "/v1/images/generations" if lane.makes == "pictures" else "/v1/videos"
        raise invalid(f"{lane.name} makes {lane.makes}; use {where}", "model", "no_sound_model")
    prompt = fields.text
    check_prompt(prompt, settings)
    warnings = list(fields.warnings)
    if isinstance(fields, DescribedSoundFields):
        warnings.append(f"{lane.name} makes the sound that the input describes and speaks no words; voice has no use")
        told = {"prompt": prompt, "response_format": fields.response_format, "seconds": fields.seconds}
        fields = SoundFields.of(told)
    steps = resolve_steps(fields.num_inference_steps, 1.0, lane, settings)
    sampling = make_sampling(fields, lane, settings, n=1, size=(None, None), num_steps=steps)
    order = Order(
        lane=lane,
        request=make_request(
            lane, prompt, replace(sampling, seconds=float(fields.seconds) if fields.seconds else None)
        ),
        size=(None, None),
        num_steps=steps,
        seconds=fields.seconds,
        media=sound_format(fields.response_format or "wav"),
        user=fields.user,
        warnings=(*warnings, *lane.of_text(prompt, sampling, strict=settings.strict_fields)),
    )
    return _checked(order, fields)


def remixed(job: RequestJob, prompt: str, lanes: Lanes) -> Order:
    """The film of a job once more, with the same seed and parameters and another prompt. Raises `ApiError`."""
    check_prompt(prompt, lanes.settings)
    order = job.order
    if order.facts.get("has_pictures"):
        text = f"{job.id} began with a picture, which is not kept; send both to POST /v1/videos as input_reference"
        raise invalid(text, "id", "picture_missing")
    if order.lane.has_stages:
        raise invalid("a film of several stages can't be remixed; send it anew to POST /v1/videos", "id")
    lane = lanes.choose(order.lane.name, edit=False)  # it may have been closed and opened again
    return replace(
        order, lane=lane, request=replace(order.request, prompt=prompt), facts={**order.facts, "remix_of": job.id}
    )


def _checked(order: Order, fields: VideoFields | SoundFields) -> Order:
    try:
        order.check()
    except InvalidRequestError as error:
        if error.param == "image":
            raise invalid(str(error), "input_reference") from error
        raise named_as_sent(error, fields) from error
    pictures = {"has_pictures": True} if order.request.images else {}
    return replace(order, facts={**order.facts, **pictures})


def _length(lane: Lane, fields: VideoFields, sampling: SamplingParams) -> tuple[int, float]:
    """Frames, and how many a second. Raises `ApiError` where both ways to say it are used."""
    if fields.num_frames and fields.seconds:
        raise invalid("seconds and num_frames are given; expected one of them", "seconds")
    told = lane.omni.arguments.resolved(make_request(lane, fields.prompt, sampling))
    return int(told.get("num_frames") or 1), float(told["fps"])


def _further(fields: VideoFields, lane: Lane) -> dict[str, Any]:
    """Arguments that some pipelines have. Raises `ApiError` where this one hasn't, and the value asks for something."""
    found: dict[str, Any] = {}
    own = getattr(lane.model.pipeline.config, "boundary_ratio", None)
    if fields.guidance_scale_2 is not None:
        if lane.takes("guidance_scale_2") and own is not None:
            found["guidance_scale_2"] = fields.guidance_scale_2
        elif fields.guidance_scale_2 not in (*_NO_OWN_GUIDANCE, fields.guidance_scale):
            text = f"{lane.name} has one denoiser and one guidance; leave guidance_scale_2 out"
            raise invalid(text, "guidance_scale_2", "unsupported_field")
    if fields.boundary_ratio is not None and fields.boundary_ratio != own:
        text = f"boundary_ratio is {fields.boundary_ratio}; it is the model's own here ({own}): leave it out"
        raise invalid(text, "boundary_ratio", "unsupported_field")
    if fields.generate_sound and not lane.makes_sound_too:
        raise invalid(f"{lane.name} makes no sound; leave generate_sound out", "generate_sound", "unsupported_field")
    return found


def _references(fields: VideoFields, files: Mapping[str, Sequence[bytes]], lane: Lane, lanes: Lanes) -> list[Any]:
    settings = lanes.settings
    for name in files.keys() - {"input_reference"}:
        raise invalid(f"unknown file {name!r}; expected input_reference", name, "unknown_field")
    given = [*files.get("input_reference", [])]
    if fields.input_reference is not None:
        told = fields.input_reference
        given += told if isinstance(told, list) else [told]
    if given and not lane.takes_image:
        raise invalid("input_reference: this model makes videos from text alone; leave it out", "input_reference")
    if len(given) > settings.max_input_images:
        text = f"{len(given)} pictures; this server allows 1 to {settings.max_input_images}"
        raise ApiError(400, text, code="invalid_value", param="input_reference")
    return [decode_image(image_bytes(one, settings, "input_reference"), settings, "input_reference") for one in given]
