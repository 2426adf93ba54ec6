"""What people say to `generate` beside a prompt, in the words of diffusers: keyword arguments, dicts, pictures.

Knows nothing of models: whether a pipeline takes an argument is found when the request meets it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from interlace.adapters import with_images
from interlace.errors import InvalidRequestError
from interlace.request import SAMPLING_FIELDS, AnySampling, ARSamplingParams, Request, SamplingParams

_MEDIA = ("image", "images", "mask_image", "control_image", "ip_adapter_image", "video")
# What diffusers calls our fields.
_SAME = {"num_images_per_prompt": "num_images", "num_videos_per_prompt": "num_images", "steps": "num_inference_steps"}


def with_keywords(given: Any, keywords: Mapping[str, Any]) -> Any:
    """Sampling parameters with keyword arguments laid over them; a dict of names is such parameters too.

    What is no field of ours is an argument of the pipeline's own (`extra`). Raises `InvalidRequestError`.
    """
    if isinstance(given, Mapping) and given and all(isinstance(name, str) for name in given):
        given = _laid_over(SamplingParams(), given)
    sampling = {name: value for name, value in keywords.items() if name not in _MEDIA}
    if not sampling:
        return given
    if given is not None and not isinstance(given, (SamplingParams, ARSamplingParams)):
        name = next(iter(sampling))
        raise InvalidRequestError(f"{name} is given beside parameters for each stage; say it in those", name)
    return _laid_over(given or SamplingParams(), sampling)


def with_pictures(item: Any, keywords: Mapping[str, Any]) -> Any:
    """A prompt with the pictures of the keyword arguments (`image=`), as a dict."""
    media = {name: value for name, value in keywords.items() if name in _MEDIA and value is not None}
    if not media or isinstance(item, Request):
        return item
    return {**media, **({"prompt": item} if isinstance(item, str) else dict(item))}


def gathered_media(item: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt with its pictures (`{"prompt", "image"}`) under `multi_modal_data`, opened where they are paths."""
    found = {name: value for name, value in item.items() if name not in _MEDIA}
    media = {("image" if name == "images" else name): item[name] for name in _MEDIA if item.get(name) is not None}
    if media:
        own = found.get("multi_modal_data") or {}
        found["multi_modal_data"] = {**{name: _opened(value, name) for name, value in media.items()}, **own}
    return found


def opened(request: Request) -> Request:
    """A request whose controls' pictures are opened where they are paths."""
    sampling = request.sampling
    if not isinstance(sampling, SamplingParams):
        return request
    return replace(request, sampling=with_control_images(sampling, lambda image: _opened(image, "controlnet")))


def with_control_images(sampling: SamplingParams, load: Callable[[Any], Any]) -> SamplingParams:
    """With what `load` makes of the pictures of its controls."""
    nets, adapters = sampling.controlnet, sampling.ip_adapter
    if not nets and not adapters:
        return sampling
    return replace(sampling, controlnet=with_images(nets, load), ip_adapter=with_images(adapters, load))


def overlaid(sampling: AnySampling, fields: Mapping[str, Any]) -> Any:
    """Sampling parameters with some fields given anew; those of `extra` join the ones that are there."""
    if "extra" in fields:
        extra = fields["extra"]
        if not isinstance(extra, Mapping):
            raise InvalidRequestError(f"extra is {extra!r}; expected argument names with their values", "extra")
        fields = {**fields, "extra": {**getattr(sampling, "extra", {}), **extra}}
    return replace(sampling, **fields) if fields else sampling


def _laid_over(sampling: AnySampling, values: Mapping[str, Any]) -> AnySampling:
    named = {_SAME.get(name, name): value for name, value in values.items()}
    if isinstance(sampling, ARSamplingParams):
        return _replaced(sampling, named)
    if (generator := named.pop("generator", None)) is not None:
        named.setdefault("seed", _seed_of(generator))
    own = {name: value for name, value in named.items() if name in SAMPLING_FIELDS}
    others = {name: value for name, value in named.items() if name not in SAMPLING_FIELDS}
    if others:
        own["extra"] = {**others, **dict(own.get("extra") or {})}
    result: AnySampling = overlaid(sampling, own)
    return result


def _replaced(sampling: ARSamplingParams, values: Mapping[str, Any]) -> ARSamplingParams:
    try:
        return replace(sampling, **values)
    except TypeError as error:
        raise InvalidRequestError(f"a language model takes no such parameter: {error}", "sampling_params") from error


def _seed_of(generator: Any) -> int:
    """Each request has a generator of its own here, begun with a seed."""
    if not hasattr(generator, "initial_seed"):
        got = type(generator).__name__
        raise InvalidRequestError(f"generator is a {got}; expected a torch.Generator, or better seed=7", "generator")
    return int(generator.initial_seed())


def _opened(value: Any, name: str) -> Any:
    if isinstance(value, (list, tuple)):
        return [_opened(one, name) for one in value]
    if not isinstance(value, (str, Path)):
        return value
    from PIL import Image, ImageOps

    try:
        with Image.open(value) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except OSError as error:
        raise InvalidRequestError(f"can't read the picture {str(value)[:200]!r}: {error}", name) from error
