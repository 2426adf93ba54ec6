"""What a request asks of thinker and talker, checked against what the model can."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import LogitsProcessorList

from interlace.errors import InvalidRequestError
from interlace.request import ARSamplingParams
from interlace.stages.omni.parts import SpeechRequest
from interlace.stages.omni.run import Given

_DEFAULT_TOKENS, _SPEECH_TOKENS = 256, 4096


def speech_of(
    params: ARSamplingParams, voices: Sequence[str], voice: str | None, usual: Mapping[str, object], model: str
) -> SpeechRequest | None:
    """How a request is to be spoken, if it is; `voice` and `usual` are the stage's. No `voices`: there is no talker.

    Raises `InvalidRequestError` for what the model can't do.
    """
    if "audio" not in (params.modalities or ("text",)):
        return None
    if not voices:
        raise InvalidRequestError(f"{model} has no talker; ask for text alone", "modalities")
    asked = params.voice or voice
    found = next((one for one in voices if asked is None or one.lower() == asked.lower()), None)
    if found is None:
        raise InvalidRequestError(f"voice is {asked!r}; expected one of {', '.join(voices)}", "voice")
    own = {**usual, **params.speech}
    return SpeechRequest(found, int(own.pop("max_tokens", _SPEECH_TOKENS)), own)


def generation_of(params: ARSamplingParams, num_prompt: int, longest: int, usual: int | None) -> dict[str, object]:
    """What the thinker's `generate` takes; `usual` tokens where nobody says. Raises `InvalidRequestError` where there
    is no room."""
    room = longest - num_prompt
    if room < 1 or (params.max_tokens or 0) > room:
        raise InvalidRequestError(
            f"the prompt has {num_prompt} tokens and max_tokens is {params.max_tokens}; the model takes "
            f"{longest} together: ask for less",
            "max_tokens" if room > 0 else "prompt",
        )
    given: dict[str, Any] = {"max_new_tokens": params.max_tokens or min(usual or _DEFAULT_TOKENS, room)}
    if params.temperature is not None:
        given["do_sample"] = params.temperature > 0
        if params.temperature > 0:
            given["temperature"] = params.temperature
    for name in ("top_p", "top_k"):
        if getattr(params, name) is not None:
            given[name] = getattr(params, name)
    return given


def given_words(words: str | None, tokenizer: Any, num_prompt: int, longest: int, ends: Any) -> dict[str, Any]:
    """What makes the thinker write the words that a request gives, and no others. Raises `InvalidRequestError`."""
    if words is None:
        return {}
    tokens = list(tokenizer(words, add_special_tokens=False).input_ids)
    if not tokens or num_prompt + len(tokens) >= longest:
        text = f"the text to say has {len(tokens)} tokens; expected 1 to {longest - num_prompt - 1}"
        raise InvalidRequestError(text, "input")
    tokens.append(int(ends[0] if isinstance(ends, (list, tuple)) else ends))
    return {"max_new_tokens": len(tokens), "logits_processor": LogitsProcessorList([Given(tokens, num_prompt)])}
