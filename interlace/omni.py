"""`Omni`: prompts in, outputs out. The engine below knows tensors; here are requests and pictures."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from interlace.config import EngineConfig
from interlace.engine.preview import Previewer
from interlace.engine.thread import Engine
from interlace.engine.ticket import Ticket
from interlace.errors import InterlaceError, InvalidRequestError
from interlace.models.arguments import ArgumentMapper, parse_prompt, seeds_of
from interlace.models.loader import LoadedModel, load_model
from interlace.models.optimize import Optimizations
from interlace.models.outputs import add_native
from interlace.request import Metrics, Output, Progress, Request, SamplingParams

Prompt = str | Mapping[str, Any]
ProgressListener = Callable[[Progress], None]
_ids = itertools.count()


class Omni:
    """Generates for many prompts at once with one model, or with several in a row.

    `model` is a directory, a hub id, a built-in name or a `LoadedModel`; `options` are fields of `EngineConfig`.
    `stages` (configs) or `deploy_config` (a file) in its place make it an `OmniStages`.
    Raises `ModelLoadError`, or `InvalidRequestError` for wrong options.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Several stages where the options name them."""
        if cls is Omni and options.keys() & {"stages", "deploy_config"}:
            from interlace.stages.omni_stages import OmniStages

            return super().__new__(OmniStages)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(
        self,
        model: str | Path | LoadedModel = "demo",
        *,
        dtype: str | None = None,
        device: str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        pipeline_class: str | None = None,
        optimizations: Optimizations | None = None,
        num_workers: int = 4,
        **options: Any,
    ) -> None:
        known = {f.name for f in fields(EngineConfig)}
        for name in options:
            if name not in known:
                raise InvalidRequestError(f"unknown option {name!r}; expected one of {', '.join(sorted(known))}", name)
        config = EngineConfig(**options)
        self.model = (
            model
            if isinstance(model, LoadedModel)
            else load_model(
                model,
                dtype=dtype,
                device=device,
                variant=variant,
                revision=revision,
                local_files_only=local_files_only,
                pipeline_class=pipeline_class,
                optimizations=optimizations,
            )
        )
        self.arguments = ArgumentMapper(self.model)
        self.engine = Engine(self.model.pipeline, config)
        self._previewer = Previewer(self.model.pipeline)
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="interlace-worker")
        self._parts: dict[str, list[str]] = {}

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | None = None,
        *,
        raise_on_error: bool = False,
        on_progress: ProgressListener | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> list[Output]:
        """One output a prompt, in order; a request that failed has its `error` set.

        `on_output` is called with each output as it is done, in a worker's thread. With `raise_on_error` the first
        error is raised once all requests have ended.
        """
        items = [prompts] if isinstance(prompts, (str, Mapping)) else list(prompts)
        futures = [self.submit(item, sampling_params, on_progress=on_progress) for item in items]
        return self._gather(futures, raise_on_error, on_output)

    def _gather(
        self, futures: "list[Future[Output]]", raise_on_error: bool, on_output: Callable[[Output], None] | None
    ) -> list[Output]:
        if on_output is not None:
            for future in futures:
                future.add_done_callback(lambda done: on_output(done.result()))
        outputs = [future.result() for future in futures]
        for output in outputs:
            if raise_on_error and output.error is not None:
                raise output.error
        return outputs

    def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        on_progress: ProgressListener | None = None,
        preview_every: int = 0,
    ) -> "Future[Output]":
        """Queue one request. The future always gets an `Output`; what went wrong is in its `error`.

        `preview_every` > 0 adds a small picture to the progress of every so many steps.
        """
        result: Future[Output] = Future()
        name = request_id or (prompt.get("request_id") if isinstance(prompt, Mapping) else None) or f"omni-{next(_ids)}"
        try:
            request = parse_prompt(prompt, sampling_params or SamplingParams(), str(name))
            self._submit(request, result, on_progress, preview_every)
        except (InterlaceError, TypeError) as error:
            text = prompt if isinstance(prompt, str) else None
            result.set_result(Output(request_id=str(name), prompt=text, error=error))
        return result

    def abort(self, request_id: str) -> bool:
        """End a request at the next forward. False when there is no such request."""
        return any([self.engine.abort(part) for part in self._parts.get(request_id, [])])

    def describe(self) -> dict[str, Any]:
        """What this model is and does: class, components, default arguments, limits, what can't be shared."""
        pipeline, stats = self.model.pipeline, self.engine.stats()
        components = {
            name: {"class": type(part).__name__, "parameters": sum(p.numel() for p in part.parameters())}
            for name, part in pipeline.components.items()
            if hasattr(part, "parameters")
        }
        return {
            "model": self.model.name,
            "description": self.model.description,
            "pipeline": type(pipeline).__name__,
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "device": str(pipeline.device),
            "components": components,
            "defaults": dict(self.model.defaults),
            "limits": dict(self.model.limits),
            "exclusive": stats["exclusive"],
            "prompt_cache": stats["prompt_cache"],
        }

    def close(self) -> None:
        """Stop the engine and the workers; pending requests end with an error."""
        self.engine.close()
        self._workers.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(
        self, request: Request, result: "Future[Output]", on_progress: ProgressListener | None, preview_every: int
    ) -> None:
        seeds = seeds_of(request.sampling)
        arguments = [self.arguments.arguments(request, seed) for seed in seeds]
        ids = [request.request_id if len(seeds) == 1 else f"{request.request_id}/{i}" for i in range(len(seeds))]
        self._parts[request.request_id] = ids
        result.add_done_callback(lambda _: self._parts.pop(request.request_id, None))
        parts: list[Future[Any]] = []
        for part_id, kwargs in zip(ids, arguments, strict=True):
            listener = None
            if on_progress is not None:
                listener = self._listener(request.request_id, kwargs, on_progress)
            parts.append(
                self.engine.submit(
                    kwargs,
                    request_id=part_id,
                    priority=request.sampling.priority,
                    timeout_s=request.sampling.timeout_s,
                    on_step=listener,
                    preview_every=preview_every,
                    hold_guidance_after=request.sampling.hold_guidance_after,
                )
            )
        left = itertools.count(len(parts) - 1, -1)
        for part in parts:
            part.add_done_callback(
                lambda _: next(left) == 0 and self._workers.submit(_collect, request, seeds, parts, result)
            )

    def _listener(
        self, request_id: str, kwargs: Mapping[str, Any], on_progress: ProgressListener
    ) -> Callable[[int, int, Any], None]:
        def on_step(step: int, num_steps: int, latents: Any) -> None:
            if latents is None:
                on_progress(Progress(request_id=request_id, step=step, num_steps=num_steps))
            else:
                self._workers.submit(self._preview, request_id, step, num_steps, latents, kwargs, on_progress)

        return on_step

    def _preview(
        self,
        request_id: str,
        step: int,
        num_steps: int,
        latents: Any,
        kwargs: Mapping[str, Any],
        tell: ProgressListener,
    ) -> None:
        picture = self._previewer.picture(latents, kwargs.get("height"), kwargs.get("width"))
        if picture is not None:
            tell(Progress(request_id=request_id, step=step, num_steps=num_steps, preview=picture))


def _collect(request: Request, seeds: list[int], parts: list["Future[Any]"], result: "Future[Output]") -> None:
    """Put the parts of a request together; whatever happens, the owner gets an output."""
    tickets: list[Ticket] = [part.ticket for part in parts]  # type: ignore[attr-defined]
    output = Output(request_id=request.request_id, prompt=request.prompt, seeds=seeds, metrics=_total(tickets))
    try:
        for part in parts:
            add_native(output, part.result())
    except Exception as error:
        output = Output(
            request_id=request.request_id, prompt=request.prompt, seeds=seeds, error=error, metrics=output.metrics
        )
    result.set_result(output)


def _total(tickets: Sequence[Ticket]) -> Metrics:
    """One request's metrics from those of its images, which ran side by side: the longest, the sums of counts."""
    longest = max(tickets, key=lambda ticket: ticket.metrics.total_s).metrics
    forwards = sum(ticket.metrics.num_forwards for ticket in tickets)
    rows = sum(ticket.total_rows for ticket in tickets)
    skipped = sum(ticket.metrics.num_skipped for ticket in tickets)
    values = {**vars(longest), "num_forwards": forwards, "mean_rows": rows / forwards if forwards else 0.0}
    values["num_skipped"] = skipped
    values["num_guidance_held"] = sum(ticket.metrics.num_guidance_held for ticket in tickets)
    return Metrics(**values)
