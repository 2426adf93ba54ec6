"""POST /v1/chat/completions: text, pictures, sound and films in; text, and speech where it is asked for, out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from time import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from interlace.request import Output, Progress
from interlace.serve.http.bodies import read_body
from interlace.serve.http.errors import ApiError, api_error, invalid
from interlace.serve.http.openapi import ERRORS, body_of
from interlace.serve.http.sse import EventStream, Frame, unless_gone
from interlace.serve.speaking.answers import SpokenAnswer
from interlace.serve.speaking.fields import ConversationFields
from interlace.serve.speaking.messages import conversation, request_of
from interlace.serve.speaking.sound import IN_PIECES, base64_of, format_of, piece, spoken
from interlace.serve.speaking.state import SpeakingState, speaking

router = APIRouter(tags=["chat"], responses=ERRORS)
_EXPIRES_S = 3600  # what OpenAI's clients want to hear; nothing is kept


@router.post("/v1/chat/completions", openapi_extra=body_of(ConversationFields, form=False))
async def chat(request: Request) -> Response:
    """With `stream`: text and sound as they are made, as deltas of `content` and `audio`."""
    fields = ConversationFields.model_validate((await read_body(request, forms=False)).values, strict=True)
    state, own = speaking(request), request.state
    state.check_model(fields.model)
    messages = await asyncio.to_thread(conversation, fields.messages, state.settings)
    asked = request_of(fields, own.request_id, messages, stream_audio=bool(fields.stream))
    kind = (fields.audio.format if fields.audio is not None else None) or ("pcm16" if fields.stream else "wav")
    if fields.stream and kind not in IN_PIECES:
        raise invalid(f"audio.format is {kind!r}; while streaming expected {', '.join(IN_PIECES)}", "audio")
    format_of(kind)
    answer = state.registry.submit(asked, own.client)
    own.note["model"] = state.names[0]
    if fields.stream:
        with ExitStack() as following:
            following.enter_context(state.registry.followed(answer))
            first = await state.registry.next_event(answer)  # what is refused at once is answered with its status
            end = following.pop_all().close
        return EventStream(_events(state, answer, kind, first), state.settings.stream_keep_alive_s, end)
    return JSONResponse(await _whole(request, state, answer, kind))


async def _whole(request: Request, state: SpeakingState, answer: SpokenAnswer, kind: str) -> dict[str, Any]:
    """Waits for the answer; a client that leaves ends it."""
    over = asyncio.Event()
    task = asyncio.create_task(state.registry.output(answer))
    task.add_done_callback(lambda _: over.set())
    if not await unless_gone(request, over):
        task.cancel()
        state.registry.cancel(answer)
    output = await task
    return await asyncio.to_thread(_completion, state, answer, output, kind)


def _completion(state: SpeakingState, answer: SpokenAnswer, output: Output, kind: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": output.text, "refusal": None}
    if output.audio:
        message["audio"] = {**_audio_head(answer), "data": base64_of(spoken(output, kind)), "transcript": output.text}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
    return {**_head(state, answer, "chat.completion"), "choices": [choice], "usage": _usage(output)}


def _head(state: SpeakingState, answer: SpokenAnswer, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": int(answer.created), "model": state.names[0]}


def _audio_head(answer: SpokenAnswer) -> dict[str, Any]:
    return {"id": f"audio-{answer.id}", "expires_at": int(time()) + _EXPIRES_S}


def _usage(output: Output) -> dict[str, int]:
    asked, made = output.metrics.num_prompt_tokens, output.metrics.num_tokens
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


async def _events(
    state: SpeakingState, answer: SpokenAnswer, kind: str, first: Progress | Output
) -> AsyncGenerator[Frame, None]:
    """Chunks as OpenAI's SDK reads them, `[DONE]` last; an error ends the stream."""
    registry, heard, rate = state.registry, False, int(state.about.get("sample_rate") or 24000)

    def chunk(delta: dict[str, Any], reason: str | None = None) -> Frame:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return "", {**_head(state, answer, "chat.completion.chunk"), "choices": [choice]}

    try:
        yield chunk({"role": "assistant", "content": ""})
        event = first
        while True:
            if isinstance(event, Output):
                if heard:
                    yield chunk({"audio": _audio_head(answer)})
                yield chunk({}, "stop")
                yield "", {**_head(state, answer, "chat.completion.chunk"), "choices": [], "usage": _usage(event)}
                yield "", "[DONE]"
                return
            elif event.text is not None:
                yield chunk({"content": event.text})
            elif event.audio is not None:
                data = base64_of(piece(event.audio, kind, rate, first=not heard))
                heard = True
                yield chunk({"audio": {"id": f"audio-{answer.id}", "data": data}})
            event = await registry.next_event(answer)
    except ApiError as error:
        yield "", api_error(error).body
