"""Prompts and instructions rewritten by a language model before images are made: in this process or on a server.

Every text is written once and kept in a file, so that a run that goes on makes the same images. Wraps any generator.
"""

import hashlib
import json
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

from cyclopts import Parameter

from interlace.bulk.generator import Generator
from interlace.bulk.input.rows import Job
from interlace.bulk.text_cache import TextCache
from interlace.checks import check_number
from interlace.errors import AbortedError, InvalidRequestError, RequestError
from interlace.request import ARSamplingParams, Output, Request

CACHE = "enhanced_prompts.sqlite"

Task = Literal["t2i", "edit"]

_SYSTEM: dict[Task, str] = {
    "t2i": "You write prompts for a text-to-image model. Rewrite the user's text as one detailed prompt: keep every "
    "thing, colour, number and quoted word of it, and add composition, light and style where it says nothing. Answer "
    "with the prompt alone, in the user's language.",
    "edit": "You write instructions for an image editing model. Rewrite the user's instruction so that it says plainly "
    "what changes and that all else stays. Keep quoted words. Answer with the instruction alone, in the user's "
    "language.",
}
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class EnhanceSettings:
    """Which language model rewrites prompts, and what happens when it can't."""

    prompt_enhance: str | None = None
    """Rewrite prompts with a language model: a directory, a hub id, demo-expand, or the URL of a server that speaks
    OpenAI's API, such as http://localhost:8001/v1."""
    prompt_enhance_model: str | None = None
    """The model's name on that server."""
    prompt_enhance_system: str | None = None
    """What the language model is told; by default to add what the prompt leaves open, and to keep what it says."""
    prompt_enhance_max_tokens: int | None = None
    """Longest text, in tokens; by default what the model or its server prefers."""
    prompt_enhance_images: Annotated[bool, Parameter(negative=())] = False
    """Show the server the pictures of an edit too; its model must take pictures."""
    prompt_enhance_cache: Path | None = None
    """A file that keeps every rewritten prompt; by default enhanced_prompts.sqlite in the output folder."""
    prompt_enhance_fallback: Annotated[bool, Parameter(negative=())] = False
    """Go on with a row's own prompt where the language model fails, instead of failing the row."""
    prompt_enhance_key_env: str = "OPENAI_API_KEY"
    """The environment variable with the server's key."""

    def __post_init__(self) -> None:
        if self.prompt_enhance_max_tokens is not None:
            check_number("prompt_enhance_max_tokens", self.prompt_enhance_max_tokens, 1, whole=True)
        if self.prompt_enhance is None:
            given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if given:
                flag = given[0].replace("_", "-")
                raise InvalidRequestError(f"--{flag} means nothing without --prompt-enhance", given[0])
        elif self.is_remote and not self.prompt_enhance_model:
            message = f"which model of {self.prompt_enhance}? name it with --prompt-enhance-model"
            raise InvalidRequestError(message, "prompt_enhance_model")
        elif not self.is_remote and (self.prompt_enhance_model or self.prompt_enhance_images):
            name = "prompt_enhance_model" if self.prompt_enhance_model else "prompt_enhance_images"
            message = f"--{name.replace('_', '-')} is for a server; --prompt-enhance is {self.prompt_enhance!r}, no URL"
            raise InvalidRequestError(message, name)

    @property
    def is_remote(self) -> bool:
        return (self.prompt_enhance or "").startswith(("http://", "https://"))

    def identity(self, task: Task) -> str | None:
        """What the texts depend on besides the prompts; where the server is does not matter."""
        if self.prompt_enhance is None:
            return None
        model = self.prompt_enhance_model or self.prompt_enhance
        told = [self.prompt_enhance_system or _SYSTEM[task], self.prompt_enhance_max_tokens, self.prompt_enhance_images]
        return f"{model}:{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]}"


class Writer(Protocol):
    """A language model stage."""

    def submit(self, request: Request) -> "Future[Output]": ...

    def close(self) -> None: ...


def with_enhancer(
    open_generator: Callable[[], Generator], flags: EnhanceSettings, task: Task, folder: Path, device: str | None
) -> Generator:
    """The generator, behind a language model where the flags name one. Loads that first: it is the smaller one."""
    identity = flags.identity(task)
    if identity is None:
        return open_generator()
    writer = _open_writer(flags, task, device)
    try:
        cache = TextCache(flags.prompt_enhance_cache or folder / CACHE)
        return EnhancingGenerator(open_generator(), writer, cache, flags, identity)
    except BaseException:
        writer.close()
        raise


def _open_writer(flags: EnhanceSettings, task: Task, device: str | None) -> Writer:
    from interlace.stages.config import OmniStageConfig

    system = flags.prompt_enhance_system
    name = flags.prompt_enhance or ""
    if flags.is_remote:
        from interlace.stages.language.remote import RemoteARStage

        args = {"base_url": name, "api_key_env": flags.prompt_enhance_key_env}
        args["system_prompt"] = system or _SYSTEM[task]
        modalities = ("text", "image") if flags.prompt_enhance_images else ("text",)
        model = flags.prompt_enhance_model or ""
        return RemoteARStage(
            OmniStageConfig(stage_id=0, stage_type="ar", model=model, engine_args=args, input_modalities=modalities)
        )
    from interlace.stages.language.local import LocalARStage

    given = {} if system is None else {"system_prompt": system}
    stage = LocalARStage(OmniStageConfig(stage_id=0, stage_type="ar", model=name, engine_args=given, device=device))
    if system is None and stage.language.tokenizer.chat_template is not None:  # others go on with a text, untold
        stage.language.args = replace(stage.language.args, system_prompt=_SYSTEM[task])
    return stage


@dataclass
class _Rewriting:
    """A job whose prompt is being rewritten."""

    job: Job
    result: "Future[Output]"


class EnhancingGenerator:
    """A generator that gets every prompt as a language model rewrote it. The texts of equal prompts are equal."""

    def __init__(
        self, inner: Generator, writer: Writer, cache: TextCache, flags: EnhanceSettings, identity: str
    ) -> None:
        self._inner, self._writer, self._cache, self._flags, self._identity = inner, writer, cache, flags, identity
        self._params = ARSamplingParams(max_tokens=flags.prompt_enhance_max_tokens, temperature=0)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="interlace-enhance")
        self._lock = threading.Lock()
        self._waiting: dict[str, _Rewriting] = {}  # by job name
        self._askers: dict[str, list[str]] = {}  # key -> the names of the jobs that wait for its text
        self._told: dict[str, dict[str, str]] = {}  # by job name: what the manifest says
        self._counts: Counter[str] = Counter(written=0, from_cache=0, failed=0)

    def submit(self, job: Job) -> "Future[Output]":
        result: Future[Output] = Future()
        with self._lock:
            self._waiting[job.name] = _Rewriting(job, result)
        self._threads.submit(self._ask, job)
        return result

    def gathering(self) -> AbstractContextManager[None]:
        return self._inner.gathering()

    def resolved(self, job: Job) -> Mapping[str, object]:
        with self._lock:
            told = self._told.pop(job.name, {})
        return {**self._inner.resolved(job), **told}

    def abort(self, job: Job) -> None:
        with self._lock:
            waiting = self._waiting.pop(job.name, None)
        if waiting is None:
            self._inner.abort(job)
        else:
            self._end(job, AbortedError(f"{job.name} was aborted"), waiting.result)

    def mean_rows(self) -> float | None:
        return self._inner.mean_rows()

    def facts(self) -> Mapping[str, object]:
        with self._lock:
            counts = dict(self._counts)
        return {**self._inner.facts(), "prompt_enhance": {"model": self._identity.rpartition(":")[0], **counts}}

    def close(self) -> None:
        self._writer.close()
        self._threads.shutdown()
        self._inner.close()
        self._cache.close()

    def _ask(self, job: Job) -> None:
        """Takes the text from the cache, waits with others for it, or has it written."""
        try:
            key = self._key(job)
            text = self._cache.get(key)
            if text is not None:
                self._go_on(job.name, text, None)
                with self._lock:
                    self._counts["from_cache"] += 1
                return
            with self._lock:
                askers = self._askers.setdefault(key, [])
                askers.append(job.name)
                if len(askers) > 1:
                    return
            seen = job.images if self._flags.prompt_enhance_images else ()
            images = [source.load() for source in seen]
            request = Request(request_id=job.name, prompt=job.prompt, sampling=self._params, images=images)
            future = self._writer.submit(request)
        except Exception as error:
            self._fail(job, error)
        else:
            future.add_done_callback(lambda done: self._threads.submit(self._written, key, job, done))

    def _fail(self, job: Job, error: Exception) -> None:
        with self._lock:
            key = next((key for key, names in self._askers.items() if job.name in names), None)
            names = self._askers.pop(key) if key is not None else [job.name]
            self._counts["failed"] += 1
        for name in names:
            self._go_on(name, None, error)

    def _written(self, key: str, job: Job, future: "Future[Output]") -> None:
        output, text = future.result(), ""
        error = output.error
        try:
            text = _THOUGHTS.sub("", output.text or "").strip()
            if error is None and not text:
                error = RequestError("the language model wrote nothing")
            if error is None:
                text = self._cache.put(key, job.prompt, text)
        except sqlite3.Error as failure:  # a disk that is full is told when images are written
            self._told.setdefault(job.name, {})["prompt_enhance_cache"] = str(failure)
        with self._lock:
            names = self._askers.pop(key, [])
            self._counts["failed" if error else "written"] += 1
        for name in names:
            self._go_on(name, None if error else text, error)

    def _go_on(self, name: str, text: str | None, error: Exception | None) -> None:
        """Hands a job to the generator, with its text or, where that is wanted, with its own prompt."""
        with self._lock:
            waiting = self._waiting.pop(name, None)
            if waiting is None:
                return  # aborted
            if error is None:
                self._told[name] = {"enhanced_prompt": text or "", "prompt_enhance": self._identity}
            elif self._flags.prompt_enhance_fallback:
                self._told[name] = {"prompt_enhance_error": str(error) or type(error).__name__}
        job, result = waiting.job, waiting.result
        if error is not None and not self._flags.prompt_enhance_fallback:
            how = "--prompt-enhance-fallback goes on with the row's own"
            failed = RequestError(f"the prompt could not be rewritten: {error}; {how}")
            failed.__cause__ = error
            self._end(job, failed, result)
            return
        future = self._inner.submit(job if text is None else replace(job, prompt=text))
        future.add_done_callback(lambda done: self._done(name, done, result))

    def _done(self, name: str, done: "Future[Output]", result: "Future[Output]") -> None:
        output = done.result()
        if output.error is not None:
            with self._lock:
                self._told.pop(name, None)
        result.set_result(output)

    def _end(self, job: Job, error: Exception, result: "Future[Output]") -> None:
        result.set_result(Output(request_id=job.name, prompt=job.prompt, error=error))

    def _key(self, job: Job) -> str:
        seen = [source.key for source in job.images] if self._flags.prompt_enhance_images else []
        return hashlib.sha256(json.dumps([self._identity, job.prompt, *seen]).encode()).hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
