"""A request's text and media as the parts of a message of OpenAI's chat API, for models on servers.

Sound goes as `input_audio`, films as `video_url` with a data URL, as vLLM takes them beside OpenAI's `image_url`.
"""

import base64
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from interlace.errors import InvalidRequestError
from interlace.media.clip import Clip, Frames
from interlace.media.film import FPS, film_frames
from interlace.media.formats.table import best_film
from interlace.media.sound import encode_wav
from interlace.media.soundfiles import sound_samples
from interlace.request import Request

_RATE = 16_000  # samples a second of sound that comes as samples
_FILMS = ((b"\x1aE\xdf\xa3", "video/webm"), (b"GIF8", "image/gif"), (b"\x89PNG", "image/png"))
HEARD = "use_audio_in_video"


def content_of(text: str, request: Request, takes: Collection[str]) -> str | list[dict[str, Any]]:
    """The text, behind the request's media of the kinds that the stage `takes`.

    Raises `InvalidRequestError` for sound that it doesn't take, and for what is no sound or film.
    """
    if request.model_inputs.get("audio") is not None and "audio" not in takes:
        raise InvalidRequestError(
            f"the stage takes {', '.join(takes)}; for sound add audio to its input_modalities", "audio"
        )
    parts: list[dict[str, Any]] = []
    if "image" in takes:
        parts += [_url("image_url", _picture(image)) for image in request.images]
    if "audio" in takes:
        parts += [_sound(one) for one in _several(request.model_inputs.get("audio"))]
    if "video" in takes:
        parts += [_url("video_url", _film(one)) for one in _films(request.model_inputs.get("video"))]
    return [*parts, {"type": "text", "text": text}] if parts else text


def _several(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _films(value: Any) -> list[Any]:
    """A list of pictures is one film, a list of files or of lists several."""
    several = isinstance(value, list) and value and isinstance(value[0], (list, str, Path, bytes))
    return value if several else [] if value is None else [value]


def _url(kind: str, url: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def _picture(image: Any) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return _data_url("image/png", buffer.getvalue())


def _sound(value: Any) -> dict[str, Any]:
    """A file of a kind that servers read goes as it is, anything else as WAV."""
    data = _bytes(value)
    kind = None if data is None else "mp3" if data[:3] == b"ID3" or data[:2] in (b"\xff\xfb", b"\xff\xf3") else None
    if data is None or kind is None:
        data, kind = encode_wav(sound_samples(data if data is not None else value, _RATE), _RATE), "wav"
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def _film(value: Any) -> str:
    data = _bytes(value)
    if data is not None:
        known = next((kind for start, kind in _FILMS if data.startswith(start)), None)
        if known is not None or data[4:8] == b"ftyp":
            return _data_url(known or "video/mp4", data)
    frames: Sequence[Any] = film_frames(data if data is not None else value)
    written = best_film()
    return _data_url(written.media_type, written.encode(Clip(Frames.of(frames), FPS), {}))


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, (str, Path)):
        try:
            return Path(value).read_bytes()
        except OSError as error:
            raise InvalidRequestError(f"can't read {value}: {error.strerror}", "multi_modal_data") from error
    return bytes(value) if isinstance(value, (bytes, bytearray)) else None


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
