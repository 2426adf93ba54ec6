"""A language model on a server that speaks OpenAI's API (vLLM, SGLang, transformers serve, ...) as a stage.

The server batches; this keeps a bounded number of requests there. Each is tried again after errors that may pass (no
connection, 408, 409, 429, 5xx, a stream that breaks off), with the server's Retry-After or growing pauses.
"""

import asyncio
import base64
import io
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import replace
from time import monotonic
from typing import Any

from interlace.errors import AbortedError, EngineClosedError, InvalidRequestError, RequestError
from interlace.request import Metrics, Output, Progress
from interlace.stages.ar_config import ARSamplingParams, RemoteEngineArgs
from interlace.stages.config import OmniStageConfig

ProgressListener = Callable[[Progress], None]
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0


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
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Semaphore(args.max_concurrency)
        self._thread = threading.Thread(target=self._loop.run_forever, name="interlace-remote", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Mapping[str, Any],
        params: ARSamplingParams,
        *,
        request_id: str,
        on_progress: ProgressListener | None = None,
    ) -> "Future[Output]":
        """Queue one prompt. The future always gets an `Output`; what went wrong is in its `error`."""
        future: Future[Output] = Future()
        output = Output(request_id=request_id, prompt=prompt.get("prompt"))
        refused = self._refused(prompt, params)
        if refused is not None:
            future.set_result(replace(output, error=refused))
        else:
            job = self._answer(dict(prompt), params, output, on_progress)
            self._loop.call_soon_threadsafe(self._start, request_id, job, output, future)
        return future

    def abort(self, request_id: str) -> bool:
        """End a request with `AbortedError`; its connection is closed. False when there is no such request."""
        task = self._tasks.get(request_id)
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)
        return task is not None

    def stats(self) -> dict[str, Any]:
        return {"live": len(self._tasks), **self._counts}

    def describe(self) -> dict[str, Any]:
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

    def _refused(self, prompt: Mapping[str, Any], params: ARSamplingParams) -> Exception | None:
        text, limit = prompt.get("prompt"), self.args.max_prompt_chars
        if self._closed:
            return EngineClosedError("the stage is closed; make a new one")
        if not isinstance(text, str):
            return InvalidRequestError(f"prompt is {text!r}; a language model stage expects a text", "prompt")
        if limit is not None and len(text) > limit:
            return InvalidRequestError(f"the prompt has {len(text)} characters; expected at most {limit}", "prompt")
        if params.hidden_layer is not None:
            return InvalidRequestError("a language model server hands out no hidden states; run the model in this "
                                       "process (no base_url)", "hidden_layer")  # fmt: skip
        return None

    def _start(
        self, request_id: str, job: Coroutine[Any, Any, Output], output: Output, future: "Future[Output]"
    ) -> None:
        task = self._loop.create_task(self._owned(job, output, future))
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    async def _owned(self, job: Coroutine[Any, Any, Output], output: Output, future: "Future[Output]") -> None:
        """Whatever happens, the future gets its output."""
        try:
            future.set_result(await job)
        except asyncio.CancelledError:
            gone = (
                EngineClosedError("the stage was closed") if self._closed else AbortedError("the request was aborted")
            )
            future.set_result(replace(output, error=gone))
        except Exception as error:
            future.set_result(replace(output, error=error))

    async def _answer(
        self, prompt: dict[str, Any], params: ARSamplingParams, output: Output, tell: ProgressListener | None
    ) -> Output:
        submitted = monotonic()
        async with self._room:
            started = monotonic()
            text, usage = await self._patiently(self._arguments(prompt, params), output.request_id, params, tell)
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

    async def _patiently(
        self, arguments: dict[str, Any], request_id: str, params: ARSamplingParams, tell: ProgressListener | None
    ) -> tuple[str, Any]:
        """Tries again after what may pass; what was streamed is said once."""
        told = _Told(request_id, params.max_tokens or 0, tell)
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

    async def _ask(self, arguments: dict[str, Any], told: "_Told") -> tuple[str, Any]:
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

    def _arguments(self, prompt: dict[str, Any], params: ARSamplingParams) -> dict[str, Any]:
        names = ("max_tokens", "temperature", "top_p", "seed")
        sampling = {name: getattr(params, name) for name in names if getattr(params, name) is not None}
        if params.stop:
            sampling["stop"] = list(params.stop)
        if params.top_k is not None:
            sampling["extra_body"] = {"top_k": params.top_k}
        asked = self.args.prompt_template.replace("{prompt}", prompt["prompt"])
        system = self.args.system_prompt
        if self.args.api == "completions":
            return {"model": self.config.model, "prompt": f"{system}\n{asked}" if system else asked, **sampling}
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": self._content(asked, prompt)})
        return {"model": self.config.model, "messages": messages, **sampling}

    def _content(self, text: str, prompt: Mapping[str, Any]) -> Any:
        """The text, with the request's pictures where the stage takes them."""
        images = (prompt.get("multi_modal_data") or {}).get("image", ())
        images = images if isinstance(images, (list, tuple)) else [images]
        if not images or "image" not in self.config.input_modalities:
            return text
        parts = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
        return [*parts, {"type": "text", "text": text}]

    async def _shut(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()


class _BrokenOff(Exception):
    """A stream that ended before its answer did."""


class _Told:
    """Tells a listener what is new, once, however often the answer is asked for."""

    def __init__(self, request_id: str, max_tokens: int, tell: ProgressListener | None) -> None:
        self.request_id, self.max_tokens, self.tell = request_id, max_tokens, tell
        self._length = 0

    def more(self, text: str, step: int) -> None:
        new, self._length = text[self._length :], max(self._length, len(text))
        if new and self.tell is not None:
            self.tell(Progress(request_id=self.request_id, step=step, num_steps=self.max_tokens, text=new))


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

    growing = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
    if isinstance(error, openai.APIStatusError):
        if error.status_code not in (408, 409, 429) and error.status_code < 500:
            return None
        try:
            return min(float(error.response.headers["retry-after"]), _LONGEST_PAUSE_S)
        except (KeyError, ValueError):
            return growing
    passing = isinstance(error, (openai.APIConnectionError, TimeoutError, _BrokenOff))
    return growing if passing or _lost_connection(error) else None


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


def _data_url(image: Any) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
