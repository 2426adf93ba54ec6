"""The size of a picture, from the ways in which clients say it: size, width and height, or a ratio."""

import math
from collections.abc import Mapping
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.jobs.models import Lane
from interlace.serve.orders.fields import Sampling
from interlace.serve.settings import ServeSettings

Sides = tuple[int | None, int | None]  # width, height in pixels; None where the pipeline decides
_AREA = 1024 * 1024  # pixels, where a model has no default size


def resolve_size(fields: Sampling, lane: Lane, settings: ServeSettings) -> Sides:
    """Width and height in pixels, (None, None) for auto. Raises `ApiError` where they contradict or are too large.

    With the policy `nearest` a size that the model can't make becomes the nearest that it can, with a warning.
    """
    asked, param = _asked(fields, lane)
    if asked is None:
        return None, None
    if param == "aspect_ratio":
        return fit(asked, limits_of(lane, settings))
    if settings.size_policy == "nearest":
        nearest = fit(asked, limits_of(lane, settings))
        if nearest != asked:
            text = f"{param} {_text(asked)} is not made here: {_text(nearest)} is the nearest that {lane.name} makes"
            fields.warnings.append(text)
        return nearest
    for name, side in zip(("width", "height"), asked, strict=True):
        if side > settings.max_image_size:
            at = param or name
            raise invalid(f"{name} is {side}; this server allows up to {settings.max_image_size} pixels", at)
    return asked


def _asked(fields: Sampling, lane: Lane) -> tuple[tuple[int, int] | None, str | None]:
    """The size that was asked for, and the field that says so; None for two fields, width and height."""
    size, width, height = getattr(fields, "size", None), fields.width, fields.height
    whole = None if size in (None, "auto") else tuple(int(side) for side in str(size).split("x"))
    if whole is not None:
        if (width or whole[0], height or whole[1]) != whole:
            raise invalid(f"size is {size}, with another width or height; expected one of these ways", "size")
        return (whole[0], whole[1]), "size"
    if width or height:
        width, height = width or lane.default("width"), height or lane.default("height")
        if not width or not height:
            raise invalid("one of width and height is given; expected both for this model", "width")
        return (width, height), None
    if fields.aspect_ratio:
        return _of_ratio(fields.aspect_ratio, lane), "aspect_ratio"
    return None, None


def _of_ratio(ratio: str, lane: Lane) -> tuple[int, int]:
    """That shape, with as many pixels as the model's default."""
    wide, high = (int(side) for side in ratio.split(":"))
    area = (lane.default("width") or 0) * (lane.default("height") or 0) or _AREA
    return round(math.sqrt(area * wide / high)) or 1, round(math.sqrt(area * high / wide)) or 1


def limits_of(lane: Lane, settings: ServeSettings) -> dict[str, int]:
    """The model's own limits, within the server's; of a model that has none, what its pipeline takes."""
    limits = lane.model.limits
    most = min(limits.get("max_size", settings.max_image_size), settings.max_image_size)
    multiple = limits["multiple_of"] if "multiple_of" in limits else _multiple(lane)
    return {"multiple_of": multiple, "max_size": most, "min_size": limits.get("min_size", multiple)}


def _multiple(lane: Lane) -> int:
    """The step of sides that a pipeline is sure to take: that of its autoencoder, or some times as much."""
    step = int(getattr(lane.model.pipeline, "vae_scale_factor", 8)) * 2  # latents are often packed in twos
    return next((step * times for times in (1, 2, 4) if lane.makes_size(5 * step * times)), step)


def fit(size: tuple[int, int], limits: Mapping[str, int]) -> tuple[int, int]:
    """The nearest size within a model's limits, proportions kept as far as they allow."""
    multiple, most, least = limits.get("multiple_of", 1), limits["max_size"], limits.get("min_size", 1)
    scale = min(1.0, most / max(size))
    scale = max(scale, min(least / min(size), most / max(size)))
    sides = [max(least, min(most, round(side * scale / multiple) * multiple)) for side in size]
    return sides[0], sides[1]


def named_as_sent(error: InvalidRequestError, fields: Sampling) -> InvalidRequestError | ApiError:
    """An error about a side under the name of the field that the client sent."""
    size: Any = getattr(fields, "size", None)
    if error.param in ("width", "height") and size not in (None, "auto"):
        return invalid(f"size is {size}: {error}", "size")
    return error


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
