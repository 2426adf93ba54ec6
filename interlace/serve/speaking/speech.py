"""POST /v1/audio/speech: a text spoken, word by word as it stands. GET /v1/audio/voices: who can."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from interlace.request import Output
from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import ApiError, invalid
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.speaking.answers import SpokenAnswer
from interlace.serve.speaking.fields import AudioFields, SpeechFields, WritingFields
from interlace.serve.speaking.messages import request_of
from interlace.serve.speaking.sound import IN_PIECES, format_of, piece, spoken
from interlace.serve.speaking.state import SpeakingState, speaking

router = APIRouter(tags=["audio"], responses=ERRORS)
_INSTRUCTIONS = "Read the user's text aloud."


@router.get("/v1/audio/voices")
async def voices(request: Request) -> dict[str, object]:
    """The names that `voice` may have."""
    return {"voices": speaking(request).about.get("voices", [])}


@router.post("/v1/audio/speech", openapi_extra=body_of(SpeechFields, form=False))
async def speech(request: Request) -> Response:
    """WAV and bare samples as they are made, before the last word is thought of; other formats whole."""
    fields = SpeechFields.model_validate((await read_body(request, forms=False)).values, strict=True)
    state, own = speaking(request), request.state
    state.check_model(fields.model)
    if len(fields.input) > state.settings.max_prompt_chars:
        text = f"input has {len(fields.input)} characters; this server allows {state.settings.max_prompt_chars}"
        raise invalid(text, "input", "prompt_too_long")
    audio = AudioFields(voice=fields.voice, format=None)
    asked = WritingFields(modalities=["text", "audio"], audio=audio, seed=fields.seed, speech=fields.speech)
    messages = [
        {"role": "system", "content": [{"type": "text", "text": fields.instructions or _INSTRUCTIONS}]},
        {"role": "user", "content": [{"type": "text", "text": fields.input}]},
    ]
    kind = fields.response_format or "wav"
    written = format_of(kind)
    in_pieces = kind in IN_PIECES
    said = request_of(asked, own.request_id, messages, say=fields.input, stream_audio=in_pieces)
    answer = state.registry.submit(said, own.client)
    if in_pieces:
        return await _stream(state, answer, kind)
    data = await asyncio.to_thread(spoken, await state.registry.output(answer), kind)
    if not data:
        raise _nothing()
    return Response(data, media_type=written.media_type)


async def _stream(state: SpeakingState, answer: SpokenAnswer, kind: str) -> Response:
    """Starts once there is sound, so that what is refused is answered with its status."""
    rate = int(state.about.get("sample_rate") or 24000)
    pieces = _pieces(state, answer)
    try:
        first = await anext(pieces)
    except StopAsyncIteration:
        raise _nothing() from None

    async def data() -> AsyncIterator[bytes]:
        try:
            yield piece(first, kind, rate, first=True)
            async for samples in pieces:
                yield piece(samples, kind, rate, first=False)
        finally:
            await pieces.aclose()  # a client that left ends the request

    return StreamingResponse(data(), media_type=format_of(kind).media_type)


def _nothing() -> ApiError:
    return ApiError(422, "the model said nothing; try another text or seed", code="no_speech")


async def _pieces(state: SpeakingState, answer: SpokenAnswer) -> AsyncGenerator[Any, None]:
    with state.registry.followed(answer):
        while True:
            event = await state.registry.next_event(answer)
            if isinstance(event, Output):
                return
            if event.audio is not None:
                yield event.audio
