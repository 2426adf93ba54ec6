"""Google's image models through its SDK: Gemini (text and pictures to a picture) and Imagen (text to a picture).

Sizes are shapes there: a width and a height become the nearest aspect ratio that the API knows, and a size class.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google import genai
from google.genai import errors, types
from PIL import Image
from pydantic import BaseModel, ValidationError

from interlace.bulk.backends.answers import words
from interlace.bulk.backends.endpoints import Endpoint
from interlace.bulk.backends.errors import ServiceError, fate_of
from interlace.bulk.backends.pictures import decoded, to_png
from interlace.bulk.input.rows import Job
from interlace.errors import InvalidRequestError
from interlace.retry import retry_after_s

_IMAGEN_RATIOS = ("1:1", "3:4", "4:3", "9:16", "16:9")
_GEMINI_RATIOS = (*_IMAGEN_RATIOS, "2:3", "3:2", "4:5", "5:4", "21:9")
_RATIO_TOLERANCE = 0.08  # the API's own 3:4 is 896 x 1280
_SEED_BITS = 2**31 - 1  # the API's seeds are int32
_Model = TypeVar("_Model", bound=BaseModel)

_TAKEN = {"imagen": ("guidance_scale", "negative_prompt"), "gemini": ()}
_NOT_TAKEN = ("num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt", "strength", "num_frames")


class GoogleImages:
    """`extras`: what the API has no field for goes into the request as a further field; without, it is refused."""

    def __init__(self, model: str, *, extras: bool) -> None:
        self._model, self._extras = model, extras
        self._kind = "imagen" if "imagen" in model.rpartition("/")[2] else "gemini"

    def arguments(self, job: Job) -> dict[str, object]:
        sampling = job.sampling
        if job.images and self._kind == "imagen":
            raise InvalidRequestError("Imagen models take no pictures; edit with a Gemini image model", "images")
        sent = {name: getattr(sampling, name) for name in _TAKEN[self._kind] if getattr(sampling, name) is not None}
        others = {name: getattr(sampling, name) for name in _NOT_TAKEN if name not in _TAKEN[self._kind]}
        others = {name: value for name, value in others.items() if value is not None}
        if others and not self._extras:
            raise InvalidRequestError(
                f"Google's API has no {' and no '.join(others)} for {self._model}: leave it out, or send it all the "
                "same by --api-extras",
                next(iter(others)),
            )
        sent |= others | _shape(sampling.width, sampling.height, self._kind) | dict(sampling.extra)
        # Imagen makes either a watermark or the same picture again: the seed only where the watermark was refused.
        if sampling.seed is not None and (self._kind == "gemini" or sent.get("add_watermark") is False):
            sent["seed"] = sampling.seed & _SEED_BITS
        return sent

    def connect(self, endpoint: Endpoint) -> "GoogleConnection":
        return GoogleConnection(self._model, self._kind, endpoint)


class GoogleConnection:
    """One endpoint's client, its own retries off. Imagen is served by Vertex AI alone, Gemini by both."""

    def __init__(self, model: str, kind: str, endpoint: Endpoint) -> None:
        self._model, self._kind, self._key = model, kind, endpoint.api_key
        vertex = kind == "imagen" or os.environ.get("GOOGLE_GENAI_USE_VERTEXAI", "").lower() in ("1", "true")
        # Said to programmers, and docs/api-backends.md says it to users.
        warnings.filterwarnings("ignore", message="The generate_images method is deprecated")
        once = types.HttpRetryOptions(attempts=1)
        options = types.HttpOptions(base_url=endpoint.base_url, retry_options=once)
        try:
            key = self._key or (None if vertex else "none")  # Vertex has other ways to log in
            self._client = genai.Client(vertexai=vertex, api_key=key, http_options=options)
        except Exception as error:  # google.auth's own errors too
            raise InvalidRequestError(words(f"Google's SDK can't be set up: {error}", self._key), "api_key") from error

    def ask(
        self, prompt: str, arguments: Mapping[str, object], pictures: Sequence[Image.Image], timeout_s: float
    ) -> Image.Image:
        try:
            if self._kind == "imagen":
                return self._ask_imagen(prompt, arguments, timeout_s)
            return self._ask_gemini(prompt, arguments, pictures, timeout_s)
        except errors.APIError as error:
            raise self._status_error(error) from error
        except ServiceError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # the SDK's, of JSON that it didn't expect
            raise ServiceError(words(f"the answer can't be read: {error}", self._key), "again") from error
        except Exception as error:
            if not _is_transport(error):
                raise
            is_timeout = "Timeout" in type(error).__name__
            text = f"no answer within {timeout_s:.0f} s" if is_timeout else f"connection error: {error}"
            raise ServiceError(words(text, self._key), "again") from error

    def close(self) -> None:
        self._client.close()

    def _ask_imagen(self, prompt: str, arguments: Mapping[str, Any], timeout_s: float) -> Image.Image:
        fields, others = _split(arguments, types.GenerateImagesConfig)
        body = {"parameters": others} if others else None
        fields |= {"number_of_images": 1, "include_rai_reason": True, "http_options": _http(timeout_s, body)}
        config = _config(types.GenerateImagesConfig, fields)
        answer = self._client.models.generate_images(model=self._model, prompt=prompt, config=config)
        for made in answer.generated_images or []:
            if made.image is not None and made.image.image_bytes:
                return decoded(made.image.image_bytes)
            if made.rai_filtered_reason:
                raise ServiceError(f"filtered: {words(made.rai_filtered_reason, self._key)}")
        raise ServiceError("the answer holds no image", "again")

    def _ask_gemini(
        self, prompt: str, arguments: Mapping[str, Any], pictures: Sequence[Image.Image], timeout_s: float
    ) -> Image.Image:
        shape, rest = _split(arguments, types.ImageConfig)
        fields, others = _split(rest, types.GenerateContentConfig)
        body = {"generationConfig": others} if others else None
        fields = {"response_modalities": ["TEXT", "IMAGE"], **fields, "http_options": _http(timeout_s, body)}
        if shape:
            fields["image_config"] = _config(types.ImageConfig, shape)
        config = _config(types.GenerateContentConfig, fields)
        parts = [types.Part.from_bytes(data=to_png(image), mime_type="image/png") for image in pictures]
        contents: Any = [types.Content(role="user", parts=[*parts, types.Part.from_text(text=prompt)])]
        answer = self._client.models.generate_content(model=self._model, contents=contents, config=config)
        return self._gemini_image(answer)

    def _gemini_image(self, answer: types.GenerateContentResponse) -> Image.Image:
        candidate = answer.candidates[0] if answer.candidates else None
        made = candidate.content.parts if candidate and candidate.content and candidate.content.parts else []
        for part in reversed(made):  # drafts, where a model shows them, come first
            if part.inline_data and part.inline_data.data and not part.thought:
                return decoded(part.inline_data.data)
        feedback = answer.prompt_feedback
        if feedback and feedback.block_reason:
            raise ServiceError(
                words(f"blocked: {feedback.block_reason.value} {feedback.block_reason_message or ''}", None)
            )
        reason = candidate.finish_reason.value if candidate and candidate.finish_reason else None
        said = " ".join(part.text for part in made if part.text)
        if reason in (None, "STOP", "MAX_TOKENS", "OTHER", "NO_IMAGE", "IMAGE_OTHER", "FINISH_REASON_UNSPECIFIED"):
            raise ServiceError(words(f"the answer holds no image: {said or reason}", self._key), "again")
        raise ServiceError(words(f"blocked: {reason} {said}", self._key))

    def _status_error(self, error: errors.APIError) -> ServiceError:
        status = error.code if isinstance(error.code, int) else 500
        message = words(error.message or error.status or error, self._key)
        fate = "endpoint" if "API_KEY_INVALID" in str(error.details) else fate_of(status)
        wait = retry_after_s(getattr(error.response, "headers", None) or {})
        wait = _retry_info_s(error.details) if wait is None else wait
        return ServiceError(f"HTTP {status}: {message}", fate, status=status, retry_after_s=wait)


def _shape(width: int | None, height: int | None, kind: str) -> dict[str, str]:
    if width is None and height is None:
        return {}
    if width is None or height is None:
        raise InvalidRequestError("Google's API takes width and height together; give both or none", "height")
    ratios = _IMAGEN_RATIOS if kind == "imagen" else _GEMINI_RATIOS
    near = {ratio: abs(width / height / _ratio(ratio) - 1) for ratio in ratios}
    best = min(near, key=lambda ratio: near[ratio])
    if near[best] > _RATIO_TOLERANCE:
        known = ", ".join(ratios)
        raise InvalidRequestError(f"{width} x {height} has none of the API's aspect ratios; expected one of {known}")
    larger = max(width, height)
    return {"aspect_ratio": best} | ({"image_size": "4K" if larger > 3072 else "2K"} if larger > 1536 else {})


def _ratio(text: str) -> float:
    width, _, height = text.partition(":")
    return int(width) / int(height)


def _http(timeout_s: float, extra_body: dict[str, Any] | None) -> types.HttpOptions:
    return types.HttpOptions(timeout=max(1, int(timeout_s * 1000)), extra_body=extra_body)


def _config(model: type[_Model], fields: Mapping[str, Any]) -> _Model:
    try:
        return model(**fields)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ServiceError(f"not as Google's SDK expects it: {told}") from error


def _split(arguments: Mapping[str, Any], model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that the SDK's `model` has a field for, and the others."""
    known = {name: value for name, value in arguments.items() if name in model.model_fields}
    return known, {name: value for name, value in arguments.items() if name not in known}


def _retry_info_s(details: object) -> float | None:
    """Google's own Retry-After: google.rpc.RetryInfo among an error's details, such as {"retryDelay": "12s"}."""
    error = details.get("error", details) if isinstance(details, dict) else {}
    for detail in error.get("details", []) if isinstance(error, dict) else []:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and delay.endswith("s"):
            return retry_after_s({"retry-after": delay[:-1]})
    return None


def _is_transport(error: Exception) -> bool:
    """An error of the transport below the SDK, which is httpx or its successor."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")
