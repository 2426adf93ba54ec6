"""An omni-modal model as a stage: text, pictures, sound and films in, text and speech out as they are made.

Each of its three parts shares its forwards over all requests that are at it.
"""

import itertools
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from interlace.errors import AbortedError, EngineClosedError, InterlaceError
from interlace.request import ARSamplingParams, Output, Request
from interlace.stages.config import OmniStageConfig
from interlace.stages.language.sizes import bytes_per_token
from interlace.stages.language.text_stream import TextStream
from interlace.stages.omni.asking import generation_of, given_words, speech_of
from interlace.stages.omni.config import OmniEngineArgs
from interlace.stages.omni.engines.opening import open_parts
from interlace.stages.omni.load import load_omni
from interlace.stages.omni.parts import SpeechRequest
from interlace.stages.omni.reading.inputs import SAY, InputMaker, kinds_of
from interlace.stages.omni.run import Run
from interlace.stages.omni.spoken import Spoken
from interlace.stages.stage import Listener

_ids = itertools.count()
_Work = list[tuple[str, dict[str, Any], int]]  # part, arguments, bytes of keys and values


class OmniModelStage:
    """Answers many requests at once. Raises `ModelLoadError` for what can't be loaded."""

    def __init__(self, config: OmniStageConfig, replica: int = 0) -> None:
        args = config.engine_config()
        assert isinstance(args, OmniEngineArgs)
        self.config, self.args = config, args
        loaded = load_omni(config.model, args, config.device_of(replica))
        self.family = loaded.first
        self.inputs = InputMaker(loaded.processor, kinds_of(loaded.processor), args.system_prompt)
        text = self.family.model.config.thinker_config.get_text_config()
        longest = int(getattr(text, "max_position_embeddings", 0) or 32768)
        self.max_length = min(args.max_model_len or longest, longest)
        self._live: dict[str, Spoken] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._workers = ThreadPoolExecutor(1, "interlace-processor")
        runs = {id(one): Run(one, args.prefix_cache_gib) for several in loaded.families.values() for one in several}
        self._run = runs[id(self.family)]
        self._thinkers = [runs[id(one)] for one in loaded.families["thinker"]]
        self.parts = open_parts(loaded, runs, args)
        thinker = self.family.model.thinker
        self._token_bytes = {"thinker": bytes_per_token(text, thinker.dtype), "code2wav": 0}
        if self.speaks:
            talker = self.family.model.talker
            self._token_bytes["talker"] = bytes_per_token(talker.config.get_text_config(), talker.dtype)

    @property
    def speaks(self) -> bool:
        return "talker" in self.parts

    def voices(self) -> list[str]:
        """The names that a request may ask for."""
        return self.family.voices() if self.speaks else []

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Output]":
        """Queue one request. The future always gets an `Output`; what went wrong is in its `error`."""
        params = request.sampling
        stop = params.stop if isinstance(params, ARSamplingParams) else ()
        key = f"{request.request_id}#{next(_ids)}"
        answer = Spoken(request, key, TextStream(self.inputs.tokenizer, stop), listener)
        try:
            speech = speech_of(
                request.writing, self.voices(), self.args.voice, self.args.speech, self.config.model
            )  # fmt: skip
            with self._lock:
                if self._closed:
                    raise EngineClosedError("the stage is closed; make a new one")
                self._live[key] = answer
            self._workers.submit(self._start, answer, speech)
        except InterlaceError as error:
            answer.future.set_result(Output(request_id=request.request_id, prompt=request.prompt, error=error))
        return answer.future

    def abort(self, request_id: str) -> bool:
        """End a request with `AbortedError`. False when there is no such request."""
        found = [one for one in list(self._live.values()) if one.request.request_id == request_id]
        for one in found:
            self._fail(one, AbortedError("the request was aborted"))
        return bool(found)

    def stats(self) -> Mapping[str, object]:
        """Each part's engines, and the system prompts that the thinkers keep."""
        stats = {name: part.stats() for name, part in self.parts.items()}
        stats["thinker"]["prefixes"] = [run.prefixes.stats() for run in self._thinkers]
        return stats

    def describe(self) -> dict[str, object]:
        model = self.family.model
        return {
            "model": self.config.model,
            "class": getattr(self.family, "class_name", type(model).__name__),
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtype": str(model.thinker.dtype).removeprefix("torch."),
            "device": str(model.thinker.device),
            "max_length": self.max_length,
            "modalities": {"input": ["text", *self.inputs.takes], "output": ["text", *["audio"] * self.speaks]},
            "voices": self.voices(),
            "sample_rate": self.family.sample_rate or None,
            "parts": [part.describe() for part in self.parts.values()],
        }

    def close(self) -> None:
        """Stop; pending requests end with an error. May be called twice."""
        with self._lock:
            already, self._closed = self._closed, True
        if already:
            return
        for one in list(self._live.values()):
            self._fail(one, EngineClosedError("the stage was closed before this request was done"))
        self._workers.shutdown()
        for part in self.parts.values():
            part.close()

    def _start(self, answer: Spoken, speech: SpeechRequest | None) -> None:
        """In the worker: reads the media, then sets the parts to work."""
        try:
            params = answer.request.writing
            inputs = self.inputs.make(answer.request)
            num_prompt = answer.metrics.num_prompt_tokens = inputs["input_ids"].shape[1]
            settings = self.family.model.thinker.generation_config
            generation = generation_of(params, num_prompt, self.max_length, settings.max_new_tokens)
            words = answer.request.model_inputs.get(SAY)
            generation |= given_words(
                words, self.inputs.tokenizer, num_prompt, self.max_length, settings.eos_token_id
            )  # fmt: skip
            common = {"seed": params.seed if params.seed is not None else secrets.randbelow(2**32),
                      "links": answer.links if speech is not None else None}  # fmt: skip
            prefix = self.inputs.num_prefix(answer.request, inputs["input_ids"])
            own = {"generation": generation, "take": answer.take, "num_prefix": prefix}
            work = [self._work("thinker", num_prompt + generation["max_new_tokens"], inputs=inputs, **own, **common)]
            if speech is not None:
                hear = answer.hear if params.stream_audio else None
                length = num_prompt + speech.max_tokens
                work.append(self._work("talker", length, inputs=inputs, speech=speech, **common))
                work.append(self._work("code2wav", 0, voice=speech.voice, hear=hear, **common))
            self._submit(answer, work)
        except Exception as error:
            self._fail(answer, error)

    def _work(self, part: str, num_tokens: int, **kwargs: Any) -> tuple[str, dict[str, Any], int]:
        """A part's work with the bytes that it keeps. Raises `TooLargeError` for what never fits."""
        size = num_tokens * self._token_bytes[part]
        self.parts[part].check(size, num_tokens)
        return part, kwargs, size

    def _submit(self, answer: Spoken, work: _Work) -> None:
        with answer.lock:
            if answer.error is not None:
                return
            answer.left = len(work)
        answer.tell(kind="started")
        for name, kwargs, size in work:
            self.parts[name].submit(kwargs, answer.key, size, partial(self._part_done, answer, name))
        if answer.error is not None:  # aborted while it was handed over
            self._end_parts(answer)

    def _part_done(self, answer: Spoken, part: str, done: "Future[Any]") -> None:
        error = done.exception()
        if error is not None:
            self._fail(answer, error)
            return
        if part == "thinker":
            answer.written()
        elif part == "code2wav":
            answer.waveform = done.result()
        ticket = done.ticket  # type: ignore[attr-defined]
        with answer.lock:
            answer.metrics.num_forwards += ticket.metrics.num_forwards
            answer.left -= 1
            last = answer.left == 0
        if last:
            self._end(answer)

    def _fail(self, answer: Spoken, error: BaseException) -> None:
        with answer.lock:
            if answer.error is not None:
                return
            answer.error = error
        answer.links.close(error)
        self._end_parts(answer)
        self._end(answer)

    def _end_parts(self, answer: Spoken) -> None:
        for part in self.parts.values():
            part.abort(answer.key)

    def _end(self, answer: Spoken) -> None:
        with self._lock:
            if self._live.pop(answer.key, None) is None:
                return
        answer.future.set_result(answer.output(self.family.sample_rate))
