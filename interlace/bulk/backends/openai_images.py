"""OpenAI's Images API through its SDK: OpenAI itself, and the many servers that speak it (Interlace's own too)."""

from collections.abc import Mapping, Sequence
from typing import Any

import openai
from PIL import Image

from interlace.bulk.backends.answers import words
from interlace.bulk.backends.endpoints import Endpoint
from interlace.bulk.backends.errors import ServiceError, fate_of
from interlace.bulk.backends.pictures import fetched, from_text, to_png
from interlace.bulk.input.rows import Job
from interlace.errors import InvalidRequestError
from interlace.retry import retry_after_s

OPENAI_URL = "https://api.openai.com/v1"

_BEYOND = ("num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt", "strength")
_ALWAYS_BASE64 = ("gpt-image", "chatgpt-image")  # and they refuse response_format
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


class OpenAIImages:
    """`extras`: what the API has no field for goes into the request as a further field; without, it is refused."""

    def __init__(self, model: str, *, extras: bool) -> None:
        self._model, self._extras = model, extras

    def arguments(self, job: Job) -> dict[str, object]:
        sampling = job.sampling
        sent: dict[str, Any] = {}
        if (sampling.height is None) != (sampling.width is None):
            raise InvalidRequestError("OpenAI's API takes width and height together; give both or none", "height")
        if sampling.height is not None:
            sent["size"] = f"{sampling.width}x{sampling.height}"
        if not self._model.startswith(_ALWAYS_BASE64) and "response_format" not in sampling.extra:
            sent["response_format"] = "b64_json"
        beyond = {name: getattr(sampling, name) for name in (*_BEYOND, "max_sequence_length")}
        beyond = {name: value for name, value in beyond.items() if value is not None}
        if beyond and not self._extras:
            raise InvalidRequestError(
                f"OpenAI's API has no {' and no '.join(beyond)}: leave it out, or send it all the same by --api-extras",
                next(iter(beyond)),
            )
        if self._extras:
            sent |= beyond
            if sampling.seed is not None:
                sent["seed"] = sampling.seed
        if sampling.num_frames is not None:
            raise InvalidRequestError("OpenAI's images API makes no video", "num_frames")
        return {**sent, **sampling.extra}

    def connect(self, endpoint: Endpoint) -> "OpenAIConnection":
        return OpenAIConnection(self._model, endpoint)


class OpenAIConnection:
    """One endpoint's client. The SDK's own retries are off: it knows nothing of the other requests."""

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        self._model, self._key = model, endpoint.api_key
        self._base_url = endpoint.base_url or OPENAI_URL
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=self._base_url, max_retries=0)

    def ask(
        self, prompt: str, arguments: Mapping[str, object], pictures: Sequence[Image.Image], timeout_s: float
    ) -> Image.Image:
        extra_body = dict(arguments)
        common: dict[str, Any] = {"model": self._model, "prompt": prompt, "n": 1}
        # These two have fields in the SDK; the rest goes past it as it is.
        common |= {name: extra_body.pop(name) for name in ("size", "response_format") if name in extra_body}
        try:
            if pictures:
                files = [(f"image{number}.png", to_png(image), "image/png") for number, image in enumerate(pictures)]
                image = files if len(files) > 1 else files[0]
                answer = self._client.images.edit(image=image, **common, extra_body=extra_body, timeout=timeout_s)
            else:
                answer = self._client.images.generate(**common, extra_body=extra_body, timeout=timeout_s)
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except openai.APITimeoutError as error:
            raise ServiceError(f"no answer within {timeout_s:.0f} s", "again") from error
        except openai.APIConnectionError as error:
            raise ServiceError(words(f"connection error: {error.__cause__ or error}", self._key), "again") from error
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # of JSON that it didn't expect
            raise ServiceError(words(f"the answer can't be read: {error}", self._key), "again") from error
        return self._image(answer, timeout_s)

    def close(self) -> None:
        self._client.close()

    def _image(self, answer: object, timeout_s: float) -> Image.Image:
        data = getattr(answer, "data", None)
        first = data[0] if isinstance(data, list) and data else None
        text, url = getattr(first, "b64_json", None), getattr(first, "url", None)
        if isinstance(text, str) and text:
            return from_text(text)
        if isinstance(url, str) and url:
            return fetched(url, self._base_url, timeout_s)
        raise ServiceError(f"the answer holds no image: {words(answer, self._key)[:120]}", "again")

    def _status_error(self, error: openai.APIStatusError) -> ServiceError:
        status = error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        message = words(body.get("message") or error.message, self._key)
        fate = "endpoint" if _QUOTA & {str(error.code), str(body.get("type"))} else fate_of(status)
        wait = retry_after_s(error.response.headers)
        return ServiceError(f"HTTP {status}: {message}", fate, status=status, retry_after_s=wait)
