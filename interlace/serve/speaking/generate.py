"""POST /generate: one prompt with its media, answered whole."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import invalid
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.settings import ServeSettings
from interlace.serve.speaking.fields import MediaPromptFields
from interlace.serve.speaking.messages import media_of, request_of
from interlace.serve.speaking.sound import base64_of, format_of, spoken
from interlace.serve.speaking.state import speaking

router = APIRouter(tags=["generate"], responses=ERRORS)
_MEDIA = ("image", "audio", "video")


@router.post("/generate", openapi_extra=body_of(MediaPromptFields, form=False))
async def generate(request: Request) -> dict[str, object]:
    """`outputs` with one item: its `text`, and `audio` where it was asked for."""
    fields = MediaPromptFields.model_validate((await read_body(request, forms=False)).values, strict=True)
    if fields.sampling_params:
        values = {**fields.sampling_params, **fields.model_dump(exclude_none=True, exclude={"sampling_params"})}
        fields = MediaPromptFields.model_validate(values, strict=True)
    state, own = speaking(request), request.state
    state.check_model(fields.model)
    parts = await asyncio.to_thread(_parts, fields, state.settings)
    asked = request_of(fields, own.request_id, [{"role": "user", "content": parts}])
    kind = (fields.audio.format if fields.audio is not None else None) or "wav"
    format_of(kind)
    output = await state.registry.output(state.registry.submit(asked, own.client))
    made: dict[str, Any] = {"request_id": own.request_id, "prompt": fields.prompt, "text": output.text}
    if output.audio:
        data = base64_of(await asyncio.to_thread(spoken, output, kind))
        made["audio"] = {"data": data, "format": kind, "sample_rate": output.sample_rate}
    return {"id": own.request_id, "model": state.names[0], "outputs": [made]}


def _parts(fields: MediaPromptFields, settings: ServeSettings) -> list[dict[str, Any]]:
    """The media, then the text. Raises `ApiError`."""
    media = fields.multi_modal_data or {}
    for name in media:
        if name not in _MEDIA:
            raise invalid(f"multi_modal_data has {name!r}; expected {', '.join(_MEDIA)}", "multi_modal_data")
    given = [(kind, one) for kind in _MEDIA if kind in media
             for one in (media[kind] if isinstance(media[kind], list) else [media[kind]])]  # fmt: skip
    if len(given) > settings.max_input_images:
        raise invalid(f"{len(given)} media; this server allows {settings.max_input_images}", "multi_modal_data")
    parts = [{"type": kind, kind: media_of(kind, one, settings)} for kind, one in given]
    if fields.prompt:
        parts.append({"type": "text", "text": fields.prompt})
    if not parts:
        raise invalid("expected a prompt or multi_modal_data", "prompt", "missing_field")
    return parts
