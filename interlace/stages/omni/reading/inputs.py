"""A request's text, pictures, sound and films as what a transformers model takes, by the model's own processor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from interlace.errors import InvalidRequestError
from interlace.media.film import film_frames
from interlace.media.soundfiles import film_sound, sound_samples
from interlace.request import Request
from interlace.stages.omni.reading.films import NoFilms

MEDIA = ("image", "audio", "video")
WITH_SOUND = "use_audio_in_video"  # films are heard, too; as vLLM calls it
SAY = "say"  # among a request's inputs: the words of the answer, where they are given


def kinds_of(processor: Any) -> tuple[str, ...]:
    """Which kinds of media a processor reads."""
    parts = {"image": "image_processor", "audio": "feature_extractor", "video": "video_processor"}
    found = {kind: getattr(processor, part, None) for kind, part in parts.items()}
    return tuple(kind for kind, part in found.items() if part is not None and not isinstance(part, NoFilms))


class InputMaker:
    """Makes model inputs with a `processor` of transformers. `takes` are the kinds of media that the model reads.

    Safe to use from one thread at a time.
    """

    def __init__(self, processor: Any, takes: Sequence[str], system_prompt: str | None = None) -> None:
        self.processor, self.takes, self._system = processor, tuple(takes), system_prompt
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._last: tuple[tuple[str, ...], list[int]] | None = None  # a system prompt and its tokens
        self._rate = int(getattr(getattr(processor, "feature_extractor", None), "sampling_rate", 16000))

    def make(self, request: Request) -> dict[str, Any]:
        """`input_ids` [1, tokens] and the tensors of its media. Raises `InvalidRequestError` for what can't be read."""
        messages = _messages(request, self._system)
        media: dict[str, list[Any]] = {kind: [] for kind in MEDIA}
        heard = bool(request.model_inputs.get(WITH_SOUND))
        if heard:
            self._check_heard(messages)
        plain = [{**message, "content": [self._part(part, media) for part in message["content"]]}
                 for message in messages]  # fmt: skip
        try:
            text = self.processor.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
            given = {"images": media["image"], "audio": media["audio"], "videos": media["video"]}
            if heard:
                films = [
                    part["video"] for message in messages for part in message["content"] if part["type"] == "video"
                ]
                given["audio"] = [self._track(film) for film in films]
            more: dict[str, Any] = {"sampling_rate": self._rate} if given["audio"] else {}
            if heard:
                more |= _films_are_heard(self.processor, len(given["audio"]))
            made = self.processor(text=[text], return_tensors="pt", padding=False, **more,
                                  **{name: value for name, value in given.items() if value})  # fmt: skip
        except InvalidRequestError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError) as error:
            text = f"the model's processor can't read this request: {error}; send other media, or text alone"
            raise InvalidRequestError(text, "multi_modal_data") from error
        read = {name: torch.as_tensor(value) if isinstance(value, list) else value for name, value in made.items()}
        return {**read, WITH_SOUND: True} if heard else read

    def _check_heard(self, messages: Sequence[Mapping[str, Any]]) -> None:
        kinds = [part["type"] for message in messages for part in message["content"]]
        if "audio" not in self.takes:
            raise InvalidRequestError(f"the model doesn't take audio; leave {WITH_SOUND} out", WITH_SOUND)
        if "video" not in kinds or "audio" in kinds:
            text = f"{WITH_SOUND} is for films whose own sound is heard; expected a film, and no audio beside it"
            raise InvalidRequestError(text, WITH_SOUND)

    def _track(self, film: Any) -> Any:
        """The sound of a film, at the model's rate. Raises `InvalidRequestError` where it has none."""
        if isinstance(film, (str, Path)):
            film = Path(film).read_bytes()  # its frames were read before
        track = film_sound(bytes(film)) if isinstance(film, (bytes, bytearray)) else None
        if track is None:
            text = f"the film has no sound track; leave {WITH_SOUND} out, or send its sound as audio"
            raise InvalidRequestError(text, "video")
        return sound_samples(track, self._rate)

    def num_prefix(self, request: Request, ids: torch.Tensor) -> int:
        """How many of a request's tokens `ids` [1, tokens] are its system prompt; 0 where it has none of text alone."""
        first = _messages(request, self._system)[0]
        if first["role"] != "system" or any(part["type"] != "text" for part in first["content"]):
            return 0
        tokens = self._system_tokens(tuple(part["text"] for part in first["content"]))
        return len(tokens) if ids[0, : len(tokens)].tolist() == tokens and len(tokens) < ids.shape[1] else 0

    def _system_tokens(self, texts: tuple[str, ...]) -> list[int]:
        """Of a conversation that has a system prompt and nothing else, by the template."""
        if self._last is None or self._last[0] != texts:
            message = {"role": "system", "content": [{"type": "text", "text": text} for text in texts]}
            try:
                text = self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=False)
                self._last = texts, list(self.tokenizer(text).input_ids)
            except Exception:  # a template that wants a user: nothing is shared
                self._last = texts, []
        return self._last[1]

    def _part(self, part: Mapping[str, Any], media: dict[str, list[Any]]) -> dict[str, Any]:
        """A part of a message for the template; what it holds goes to `media`."""
        kind = part["type"]
        if kind == "text":
            return {"type": "text", "text": part["text"]}
        if kind not in self.takes:
            able = ", ".join(("text", *self.takes))
            raise InvalidRequestError(f"the model doesn't take {kind}; it takes {able}: leave it out", kind)
        value = part[kind]
        if kind == "audio":
            value = sound_samples(value, self._rate)
        elif kind == "video":
            value = film_frames(value)
        media[kind].append(value)
        return {"type": kind}


def _messages(request: Request, system: str | None) -> list[dict[str, Any]]:
    """The conversation that a request brings, or its media and then its text as one message of the user's."""
    others = {name: value for name, value in request.model_inputs.items() if name not in (SAY, WITH_SOUND)}
    messages = others.pop("messages", None)
    for name in others:
        if name not in MEDIA:
            expected = ", ".join(MEDIA)
            raise InvalidRequestError(f"multi_modal_data has {name!r}; a language model takes {expected}", str(name))
    if messages is None:
        values = {**others, "image": list(request.images)}
        parts = [{"type": kind, kind: one} for kind in MEDIA for one in _several(kind, values.get(kind))]
        if request.prompt is not None:
            parts.append({"type": "text", "text": request.prompt})
        if not parts:
            raise InvalidRequestError("the request has neither a prompt nor media; expected one of them", "prompt")
        messages = [{"role": "user", "content": parts}]
    if system is not None and not any(one["role"] == "system" for one in messages):
        messages = [{"role": "system", "content": [{"type": "text", "text": system}]}, *messages]
    return list(messages)


def _films_are_heard(processor: Any, num_films: int) -> dict[str, Any]:
    """What tells a processor that the sounds it gets are those of its films; older ones know it by another name."""
    if hasattr(processor, "load_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": list(range(num_films))}
    return {WITH_SOUND: True}


def _several(kind: str, value: Any) -> list[Any]:
    """One or several: a list of pictures is one film, a list of lists several; (samples, rate) is one sound."""
    if value is None:
        return []
    if kind == "video":
        return (
            list(value) if isinstance(value, list) and value and isinstance(value[0], (list, str, bytes)) else [value]
        )
    return list(value) if isinstance(value, list) else [value]
