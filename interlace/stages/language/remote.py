"""A language model on a server that speaks OpenAI's API (vLLM, SGLang, transformers serve, ...) as a stage.

The server batches; this keeps a bounded number of requests there. Each is tried again after errors that may pass (no
connection, 408, 409, 429, 5xx, a stream that breaks off), with the server's Retry-After or growing pauses.
"""

import asyncio
import os
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from time import monotonic
from typing import Any

from interlace.errors import AbortedError, EngineClosedError, InvalidRequestError, RequestError
from interlace.request import Metrics, Output, Progress, Request
from interlace.retry import may_pass, pause_s, retry_after_s
from interlace.stages.config import OmniStageConfig
from interlace.stages.language.config import RemoteEngineArgs
from interlace.stages.language.content import HEARD, content_of
from interlace.stages.stage import Listener

_LONGEST_PAUSE_S = 30.0  # whatever a server asks for


class RemoteARStage:
    """Asks a server. Raises `InvalidRequestError` where the `openai` package is missing."""

    def __init__(self, config: OmniStageConfig) -> None:
        args = config.engine_config()
        assert isinstance(args, RemoteEngineArgs)
        self.config, self.args = config, args
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            text = "base_url needs the openai package; pip install 'interlace[api]'"
            raise InvalidRequestError(text, "base_url") from error
        self._client = AsyncOpenAI(
            base_url=args.base_url,
            api_key=os.environ.get(args.api_key_env) or "none",
            timeout=args.request_timeout_s,
            max_retries=0,  # `_patiently` does it, for answers that break off too
        )
        self._counts: Counter[str] = Counter()
        self._live: set[str] = set()  # submitted, and without an output
        self._tasks: dict[str, asyncio.Task[Output]] = {}  # of those that the loop has begun with
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Semaphore(args.max_concurrency)
        self._thread = threading.Thread(target=self._loop.run_forever, name="interlace-remote", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Output]":
        """Queue one prompt. The future always gets an `Output`; what went wrong is in its `error`."""
        future: Future[Output] = Future()
        output = Output(request_id=request.request_id, prompt=request.prompt)
        try:
            self._check(request)
        except (InvalidRequestError, EngineClosedError) as refused:
            future.set_result(replace(output, error=refused))
            return future
        self._live.add(request.request_id)
        future.add_done_callback(lambda _: self._live.discard(request.request_id))
        self._loop.call_soon_threadsafe(self._start, request, output, listener, future)
        return future

    def abort(self, request_id: str) -> bool:
        """End a request with `AbortedError`; its connection is closed. False when there is no such request."""
        known = request_id in self._live
        if known:
            self._loop.call_soon_threadsafe(self._cancel, request_id)  # after the start that was asked for before
        return known

    def stats(self) -> dict[str, object]:
        return {"live": len(self._live), **self._counts}

    def describe(self) -> dict[str, object]:
        return {"model": self.config.model, "base_url": self.args.base_url, "api": self.args.api,
                "batching": f"the server's; at most {self.args.max_concurrency} requests there"}  # fmt: skip

    def close(self) -> None:
        """Stop; pending requests end with an error. May be called twice."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _check(self, request: Request) -> None:
        text, limit = request.prompt, self.args.max_prompt_chars
        if self._closed:
            raise EngineClosedError("the stage is closed; make a new one")
        if text is None:
            raise InvalidRequestError("prompt is None; a language model stage expects a text", "prompt")
        if limit is not None and len(text) > limit:
            raise InvalidRequestError(f"the prompt has {len(text)} characters; expected at most {limit}", "prompt")
        if request.writing_alone.hidden_layer is not None:
            raise InvalidRequestError("a language model server hands out no hidden states; run the model in this "
                                      "process (no base_url)", "hidden_layer")  # fmt: skip

    def _start(self, request: Request, output: Output, listener: Listener | None, future: "Future[Output]") -> None:
        task = self._loop.create_task(self._answer(request, output, listener))
        self._tasks[request.request_id] = task
        task.add_done_callback(lambda done: self._ended(done, output, future))

    def _cancel(self, request_id: str) -> None:
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    def _ended(self, task: "asyncio.Task[Output]", output: Output, future: "Future[Output]") -> None:
        """Whatever happened, the future gets its output."""
        self._tasks.pop(output.request_id, None)
        gone = EngineClosedError("the stage was closed") if self._closed else AbortedError("the request was aborted")
        error = gone if task.cancelled() else task.exception()
        future.set_result(replace(output, error=error) if isinstance(error, Exception) else task.result())

    async def _answer(self, request: Request, output: Output, tell: Listener | None) -> Output:
        submitted = monotonic()
        async with self._room:
            started = monotonic()
            told = _ToldText(request.request_id, request.writing.max_tokens or 0, tell)
            arguments = await asyncio.to_thread(self._arguments, request)  # media are encoded
            text, usage = await self._patiently(arguments, told)
        now = monotonic()
        return replace(
            output,
            text=text,
            metrics=Metrics(
                queue_s=started - submitted,
                generate_s=now - started,
                total_s=now - submitted,
                num_prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
                num_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
            ),
        )

    async def _patiently(self, arguments: dict[str, Any], told: "_ToldText") -> tuple[str, Any]:
        """Tries again after what may pass; what was streamed is said once."""
        for attempt in range(self.args.max_retries + 1):
            try:
                return await asyncio.wait_for(self._ask(arguments, told), self.args.request_timeout_s)
            except Exception as error:
                pause = _pause(error, attempt)
                self._counts["errors"] += 1
                if pause is None or attempt == self.args.max_retries:
                    raise _in_words(error, self.args, attempt + 1) from error
            self._counts["retries"] += 1
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _ask(self, arguments: dict[str, Any], told: "_ToldText") -> tuple[str, Any]:
        resource = self._client.chat.completions if self.args.api == "chat" else self._client.completions
        if told.tell is None:
            answer = await resource.create(**arguments)
            return _text_of(answer, "message"), getattr(answer, "usage", None)
        pieces: list[str] = []
        usage, finished = None, False
        async with await resource.create(**arguments, stream=True) as stream:
            async for event in stream:
                usage = getattr(event, "usage", None) or usage
                if event.choices:
                    pieces.append(_text_of(event, "delta"))
                    finished = finished or event.choices[0].finish_reason is not None
                    told.more("".join(pieces), len(pieces))
        if not finished:
            raise _BrokenOff("the answer broke off")
        return "".join(pieces), usage

    def _arguments(self, request: Request) -> dict[str, Any]:
        params = request.writing
        names = ("max_tokens", "temperature", "top_p", "seed")
        sampling = {name: getattr(params, name) for name in names if getattr(params, name) is not None}
        if params.stop:
            sampling["stop"] = list(params.stop)
        if params.top_k is not None:
            sampling["extra_body"] = {"top_k": params.top_k}
        asked = self.args.prompt_template.replace("{prompt}", request.prompt or "")
        system = self.args.system_prompt
        if self.args.api == "completions":
            return {"model": self.config.model, "prompt": f"{system}\n{asked}" if system else asked, **sampling}
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": content_of(asked, request, self.config.input_modalities)})
        if request.model_inputs.get(HEARD):
            sampling.setdefault("extra_body", {})["mm_processor_kwargs"] = {HEARD: True}
        return {"model": self.config.model, "messages": messages, **sampling}

    async def _shut(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()


class _BrokenOff(Exception):
    """A stream that ended before its answer did."""


class _ToldText:
    """Tells a listener what is new, once, however often the answer is asked for."""

    def __init__(self, request_id: str, max_tokens: int, tell: Listener | None) -> None:
        self.request_id, self.max_tokens, self.tell = request_id, max_tokens, tell
        self._length = 0

    def more(self, text: str, step: int) -> None:
        new, self._length = text[self._length :], max(self._length, len(text))
        if new and self.tell is not None:
            self.tell(Progress(request_id=self.request_id, step=step, num_steps=self.max_tokens, text=new, kind="text"))


def _text_of(answer: Any, part: str) -> str:
    """The text in an answer or in an event of a stream. Raises `RequestError` for what is none of OpenAI's shapes."""
    try:
        choice = answer.choices[0]
        text = choice.text if hasattr(choice, "text") else getattr(choice, part).content
        if text is None or isinstance(text, str):
            return text or ""
    except (AttributeError, IndexError, TypeError):
        pass
    raise RequestError(f"the server's answer is {str(answer)[:200]!r}; expected choices with a text")


def _pause(error: Exception, attempt: int) -> float | None:
    """Seconds until the next try; None for what won't get better."""
    import openai

    if isinstance(error, openai.APIStatusError):
        if not may_pass(error.status_code):
            return None
        told = retry_after_s(error.response.headers)
        return pause_s(attempt + 1) if told is None else min(told, _LONGEST_PAUSE_S)
    passing = isinstance(error, (openai.APIConnectionError, TimeoutError, _BrokenOff))
    return pause_s(attempt + 1) if passing or _lost_connection(error) else None


def _lost_connection(error: Exception) -> bool:
    """An error of the transport below the SDK, which is httpx or its successor."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _in_words(error: Exception, args: RemoteEngineArgs, attempts: int) -> Exception:
    import openai

    if isinstance(error, (RequestError, InvalidRequestError)):
        return error
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        words = f"no answer within {args.request_timeout_s} s"
    elif isinstance(error, openai.APIStatusError):
        words = f"status {error.status_code}: {error.message}"
    else:
        words = str(error) or type(error).__name__
    if isinstance(error, openai.APIStatusError) and error.status_code in (400, 422):
        return InvalidRequestError(f"{args.base_url} refused the request: {words}")
    return RequestError(f"{args.base_url} failed {attempts} times, last with: {words}")
