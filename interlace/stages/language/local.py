"""A language model in this process as a stage: prompts in, text out as it is written."""

import itertools
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from torch import Tensor

from interlace.engine.threads import release_team
from interlace.errors import (
    AbortedError,
    EngineClosedError,
    EngineDeadError,
    InterlaceError,
    InvalidRequestError,
    RequestError,
)
from interlace.request import ARSamplingParams, Metrics, Output, Progress, Request
from interlace.stages.config import OmniStageConfig
from interlace.stages.language.config import AREngineArgs
from interlace.stages.language.continuous import open_manager, why_not
from interlace.stages.language.model import LanguageModel
from interlace.stages.language.text_stream import TextStream
from interlace.stages.language.waves import WaveManager
from interlace.stages.stage import Listener

logger = logging.getLogger("interlace.stages")
_ids = itertools.count()


@dataclass
class _TextRequest:
    """A request on its way: what it asked for, and what was written."""

    key: str
    request_id: str
    prompt: str
    tokens: list[int]  # the prompt's
    params: ARSamplingParams
    max_tokens: int
    stream: TextStream
    future: "Future[Output]"
    tell: Listener | None
    submitted: float = field(default_factory=monotonic)
    started: float | None = None  # when its first token came


class LocalARStage:
    """Writes for many prompts at once. Raises `ModelLoadError` for what can't be loaded."""

    def __init__(self, config: OmniStageConfig, replica: int = 0) -> None:
        args = config.engine_config()
        assert isinstance(args, AREngineArgs)
        self.config, self.args = config, args
        self.language = LanguageModel.load(config.model, args, config.device_of(replica))
        self._why_waves = why_not(self.language.model) if args.continuous_batching else "continuous_batching is off"
        self._live: dict[str, _TextRequest] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._workers = ThreadPoolExecutor(1, "interlace-hidden-states")
        self._manager = self._open()
        self._reader = threading.Thread(target=self._read, name="interlace-text", daemon=True)
        self._reader.start()

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Output]":
        """Queue one prompt. The future always gets an `Output`; what went wrong is in its `error`."""
        future: Future[Output] = Future()
        try:
            self._submit(request, future, listener)
        except InterlaceError as error:
            future.set_result(Output(request_id=request.request_id, prompt=request.prompt, error=error))
        return future

    def abort(self, request_id: str) -> bool:
        """End a request with `AbortedError`. False when there is no such request."""
        found = [one for one in list(self._live.values()) if one.request_id == request_id]
        for one in found:
            self._end(one, AbortedError("the request was aborted"))
        return bool(found)

    def stats(self) -> dict[str, object]:
        return {"live": len(self._live)}

    def describe(self) -> dict[str, object]:
        batching = "continuous" if self._why_waves is None else f"waves of equal lengths: {self._why_waves}"
        return {"model": self.config.model, **self.language.describe(), "batching": batching}

    def close(self) -> None:
        """Stop; pending requests end with an error. May be called twice."""
        with self._lock:
            already, self._closed = self._closed, True
        if already:
            return
        for one in list(self._live.values()):
            self._end(one, EngineClosedError("the stage was closed before this request was done"))
        self._manager.stop(hard_stop=True)
        self._reader.join()
        self._workers.shutdown()

    def _open(self) -> Any:
        args = self.args
        if self._why_waves is not None:
            return WaveManager(self.language.model, args.max_num_seqs)
        manager, cached = open_manager(
            self.language.model, args.max_num_seqs, args.kv_cache_gib, self.language.max_length
        )
        self.language.max_length = min(self.language.max_length, cached)  # the longest text must fit alone
        return manager

    def _submit(self, request: Request, future: "Future[Output]", tell: Listener | None) -> None:
        text, params, request_id = request.prompt, request.writing_alone, request.request_id
        if text is None:
            raise InvalidRequestError("prompt is None; a language model stage expects a text", "prompt")
        tokens = self.language.tokens(text)
        max_tokens = self.language.max_tokens(len(tokens), params.max_tokens)
        stream = TextStream(self.language.tokenizer, params.stop)
        key = f"{request_id}#{next(_ids)}"
        writing = _TextRequest(key, request_id, text, tokens, params, max_tokens, stream, future, tell)
        with self._lock:
            if self._closed:
                raise EngineClosedError("the stage is closed; make a new one")
            self._live[key] = writing
        draw = vars(self.language.draw(params))
        self._manager.add_request(tokens, request_id=key, max_new_tokens=max_tokens, streaming=True, **draw)
        if key not in self._live:  # aborted while it was handed over
            self._manager.cancel_request(key)

    def _read(self) -> None:
        while not self._closed:
            result = self._manager.get_result(timeout=0.2)
            writing = self._live.get(result.request_id) if result is not None else None
            if writing is not None:
                try:
                    self._take(writing, result)
                except Exception as error:  # a listener's, a tokenizer's: this request's alone
                    self._end(writing, error)
            elif result is None and not self._manager.is_running() and not self._closed:
                self._revive()

    def _take(self, writing: _TextRequest, result: Any) -> None:
        if result.error is not None:
            self._end(writing, RequestError(f"the language model failed: {result.error}"))
            return
        writing.started = writing.started or monotonic()
        new = writing.stream.take(result.generated_tokens, last=result.is_finished())
        if writing.tell is not None and new:
            step = len(result.generated_tokens)
            steps = writing.max_tokens
            writing.tell(Progress(request_id=writing.request_id, step=step, num_steps=steps, text=new, kind="text"))
        if result.is_finished() or writing.stream.stopped:
            self._end(writing)

    def _end(self, writing: _TextRequest, error: Exception | None = None) -> None:
        with self._lock:
            if self._live.pop(writing.key, None) is None:
                return
        if error is not None or writing.stream.stopped:
            self._manager.cancel_request(writing.key)
        if error is None and writing.params.hidden_layer is not None:
            self._workers.submit(self._with_hidden_states, writing, writing.params.hidden_layer)
        else:
            writing.future.set_result(self._output(writing, error))

    def _output(self, writing: _TextRequest, error: Exception | None, hidden: Tensor | None = None) -> Output:
        now = monotonic()
        started = writing.started or now
        return Output(
            request_id=writing.request_id,
            prompt=writing.prompt,
            text=writing.stream.text if error is None else None,
            hidden_states=hidden,
            error=error,
            metrics=Metrics(
                queue_s=started - writing.submitted,
                generate_s=now - started,
                total_s=now - writing.submitted,
                num_prompt_tokens=len(writing.tokens),
                num_tokens=len(writing.stream.tokens),
            ),
        )

    def _with_hidden_states(self, writing: _TextRequest, layer: int) -> None:
        """By a forward of its own: the cache of a batched text holds keys and values only."""
        try:
            states = self.language.hidden_states(writing.tokens + writing.stream.tokens, layer)
            first = 0 if writing.params.hidden_tokens == "all" else len(writing.tokens)
            output = self._output(writing, None, states[:, first:])
        except Exception as error:
            output = self._output(writing, error)
        release_team()
        writing.future.set_result(output)

    def _revive(self) -> None:
        """The manager's thread ended: what was in it ends with its error, what comes later gets a new one."""
        cause = getattr(getattr(self._manager, "background_thread_status", None), "fatal_error", None)
        logger.error("the language model's loop ended: %r; starting a new one", cause)
        try:
            manager = self._open()
        except Exception as error:
            logger.exception("no new one could be started")
            manager, cause, self._closed = self._manager, error, True
        with self._lock:
            self._manager, lost = manager, list(self._live.values())
        for one in lost:
            self._end(one, EngineDeadError(f"the language model's loop ended: {cause!r}"))
