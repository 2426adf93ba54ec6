"""The stage that draws: requests as calls of one pipeline, their outputs as pictures, frames or sound.

The engine below knows tensors and pipelines; here are requests. Knows nothing of other stages.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor

from interlace.adapters import from_prompt
from interlace.config import EngineConfig
from interlace.engine.engine import Engine
from interlace.engine.group.group import Lead
from interlace.engine.preview import Previewer
from interlace.engine.threads import run_alone
from interlace.engine.ticket import EngineEvent, EngineListener, Ticket
from interlace.errors import InvalidRequestError
from interlace.models.adapters.library import LoraLibrary
from interlace.models.arguments import ArgumentMapper
from interlace.models.controls.library import Controlled, ControlLibrary
from interlace.models.films.decoding import helpers_of
from interlace.models.films.lengths import sample_rate
from interlace.models.loader import LoadedModel
from interlace.models.outputs import add_native
from interlace.models.schedulers import make_scheduler, shifted
from interlace.models.text_limits import TextLimits
from interlace.request import Metrics, Output, Progress, Request, SamplingParams
from interlace.stages.stage import Listener


@dataclass(eq=False)
class _Live:
    """A request without an output: what the engine calls its images, once that is known."""

    parts: list[str] = field(default_factory=list)
    aborted: bool = False


class DiffusionStage:
    """One model behind its engine. `arguments` says what its pipeline takes."""

    def __init__(
        self, model: LoadedModel, config: EngineConfig | None = None, num_workers: int = 4, lead: Lead | None = None
    ) -> None:
        """`lead`: of the ranks that run the engine's forwards with it."""
        self.model = model
        self.arguments = ArgumentMapper(model)
        self._facts = _facts(model.pipeline)  # now: while requests run the modules may have what is theirs
        self.controls = ControlLibrary(model.pipeline, model.extras)
        self.engine = self.controls.engine = Engine(model.pipeline, config, lead=lead)
        try:
            with self.engine.paused():
                self.engine.weights_changed(self.controls.num_bytes)
            self.loras = LoraLibrary(model.name, model.pipeline, model.extras, self.engine)
        except BaseException:
            self.engine.close()
            raise
        self.arguments.hash_of = self.loras.hash_of
        self._helpers = helpers_of(model.pipeline)
        self._previewer = Previewer(model.pipeline)
        self._limits = TextLimits(model.pipeline)
        self._workers = ThreadPoolExecutor(num_workers, "interlace-worker", run_alone)
        self._loader = ThreadPoolExecutor(1, "interlace-loader", run_alone)  # nobody's output waits for what loads
        self._live: dict[str, _Live] = {}

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Output]":
        """Queue one request: one call of the pipeline for each of its images."""
        result: Future[Output] = Future()
        live = _Live()
        if self._live.setdefault(request.request_id, live) is not live:
            error = InvalidRequestError(f"request_id {request.request_id!r} is already in use", "request_id")
            result.set_result(Output(request_id=request.request_id, prompt=request.prompt, error=error))
            return result
        result.add_done_callback(lambda _: self._live.pop(request.request_id))
        drawing = request.drawing
        if self.loras.needs_loading(drawing.lora or ()) or self.controls.needs_loading(drawing):
            self._loader.submit(self._try, request, live, result, listener)
        else:
            self._try(request, live, result, listener)
        return result

    def _try(self, request: Request, live: _Live, result: "Future[Output]", listener: Listener | None) -> None:
        try:
            self._submit(request, live, result, listener)
        except Exception as error:  # whatever was given: its owner waits for an output
            result.set_result(Output(request_id=request.request_id, prompt=request.prompt, error=error))

    def abort(self, request_id: str) -> bool:
        """End a request at the next forward. False when there is no such request."""
        live = self._live.get(request_id)
        if live is None:
            return False
        live.aborted = True  # for what is not at the engine yet: its adapters are being loaded
        for part in live.parts:
            self.engine.abort(part)
        return True

    def stats(self) -> dict[str, object]:
        """The engine's counts."""
        return self.engine.stats()

    def describe(self) -> dict[str, object]:
        """What this model is and does: class, components, default arguments, limits, what can't be shared."""
        cache = self.engine.prompt_cache
        return {
            "model": self.model.name,
            "description": self.model.description,
            **self._facts,
            "defaults": dict(self.model.defaults),
            "limits": dict(self.model.limits),
            "optimized": list(self.model.optimized),
            "exclusive": self.engine.exclusive,
            "prompt_cache": None if cache is None else asdict(cache.statistics()),
        }

    def close(self) -> None:
        """Stop the engine and the workers; pending requests end with an error."""
        self.engine.close()
        self._loader.shutdown()
        self._workers.shutdown()

    def _submit(self, request: Request, live: _Live, result: "Future[Output]", listener: Listener | None) -> None:
        request = self._with_prompts_loras(request)
        images = request.split()
        controlled = self.controls.take(request.drawing)
        given = self.arguments.given(request)
        arguments = [controlled.kwargs(self.arguments.arguments(one), given) for one in images]
        scheduler = self._scheduler(request.drawing)
        adapters, give_back = self._adapters(request.drawing)
        live.parts = [one.request_id for one in images]
        parts: list[Future[Any]] = []
        previews: list[Future[None]] = []
        try:
            with self.engine.gathering():
                for one, kwargs in zip(images, arguments, strict=True):
                    events = None if listener is None else self._told(request.request_id, kwargs, listener, previews)
                    parts.append(self._call(one, kwargs, events, adapters, scheduler, controlled))
        except BaseException:
            give_back()
            for part in parts:
                part.cancel()
            raise
        if live.aborted:
            self.abort(request.request_id)
        left = itertools.count(len(parts) - 1, -1)
        for part in parts:
            part.add_done_callback(
                lambda _: (
                    next(left) == 0
                    and self._workers.submit(self._collect, request, images, parts, previews, result, give_back)
                )
            )

    def _scheduler(self, sampling: SamplingParams) -> SchedulerMixin | None:
        """What takes the place of the pipeline's own, where the request asks for another."""
        pipeline = self.model.pipeline
        chosen = None if sampling.sampler is None else make_scheduler(pipeline, sampling.sampler)
        if sampling.flow_shift is None:
            return chosen
        return shifted(chosen or pipeline.scheduler, sampling.flow_shift)

    def _adapters(self, sampling: SamplingParams) -> tuple[dict[str, float] | None, Callable[[], None]]:
        """The engine's adapters for a request, None for those that the pipeline has, and how to give them back."""
        return (None, lambda: None) if sampling.lora is None else self.loras.take(sampling.lora)

    def _with_prompts_loras(self, request: Request) -> Request:
        """The adapters that the prompt names, where that is allowed, join those of the request."""
        if not self.model.extras.lora_syntax or request.prompt is None:
            return request
        prompt, named = from_prompt(request.prompt)
        sampling = replace(
            request.drawing, lora=(*(request.drawing.lora or ()), *named) if named else request.drawing.lora
        )
        return replace(request, prompt=prompt, sampling=sampling)

    def _call(
        self,
        image: Request,
        kwargs: Mapping[str, Any],
        listener: EngineListener | None,
        adapters: Mapping[str, float] | None,
        scheduler: SchedulerMixin | None,
        controlled: Controlled,
    ) -> "Future[Any]":
        sampling = image.drawing
        return self.engine.submit(
            kwargs,
            request_id=image.request_id,
            priority=sampling.priority,
            timeout_s=sampling.timeout_s,
            listener=listener,
            preview_every=image.preview_every,
            hold_guidance_after=sampling.hold_guidance_after,
            adapters=adapters,
            scheduler=scheduler,
            outfit=controlled.outfit,
            pipeline=controlled.pipeline,
            helpers=self._helpers,
        )

    def _told(
        self, request_id: str, kwargs: Mapping[str, Any], listener: Listener, previews: "list[Future[None]]"
    ) -> EngineListener:
        """The engine's events as the owner's; latents become pictures on other threads, noted in `previews`."""
        size = kwargs.get("height"), kwargs.get("width")
        last: Future[None] | None = None

        def tell(event: EngineEvent) -> None:
            nonlocal last
            progress = Progress(
                request_id=request_id, step=event.step, num_steps=event.num_steps, kind=event.kind, rows=event.rows
            )
            if event.latents is None:
                listener(progress)
            else:
                last = self._workers.submit(self._preview, event.latents, size, progress, listener, last)
                previews.append(last)

        return tell

    def _preview(
        self,
        latents: Tensor,
        size: tuple[int | None, int | None],
        progress: Progress,
        listener: Listener,
        earlier: "Future[None] | None",
    ) -> None:
        """Told after the one before, which a worker took up earlier."""
        picture = self._previewer.picture(latents, *size)
        if earlier is not None:
            wait([earlier])
        if picture is not None:
            listener(replace(progress, preview=picture))

    def _collect(
        self,
        request: Request,
        images: Sequence[Request],
        parts: Sequence["Future[Any]"],
        previews: Sequence["Future[None]"],
        result: "Future[Output]",
        give_back: Callable[[], None],
    ) -> None:
        """Put the images of a request together; whatever happens, the owner gets an output.

        No preview comes after it: the workers took them up before this.
        """
        give_back()
        tickets: list[Ticket] = [part.ticket for part in parts]  # type: ignore[attr-defined]
        seeds = [image.drawing.seed or 0 for image in images]
        empty = Output(request_id=request.request_id, prompt=request.prompt, seeds=seeds, metrics=_total(tickets))
        try:
            output = replace(empty, images=[], frames=[], audio=[])
            for part in parts:
                add_native(output, part.result(), is_film=self.arguments.makes == "film")
            if output.frames:
                output.fps = self.arguments.fps(request.drawing)
            if output.audio:
                output.sample_rate = sample_rate(self.model.pipeline)
            output.prompt_cut = self._limits.cut(request.prompt or "", self.arguments.resolved(request))
        except Exception as error:
            output = replace(empty, error=error)
        wait(previews)
        result.set_result(output)


def _total(tickets: Sequence[Ticket]) -> Metrics:
    """One request's metrics from those of its images, which ran side by side: the longest, the sums of counts."""
    longest = max(tickets, key=lambda ticket: ticket.metrics.total_s).metrics
    forwards = sum(ticket.metrics.num_forwards for ticket in tickets)
    rows = sum(ticket.total_rows for ticket in tickets)
    return replace(
        longest,
        num_forwards=forwards,
        mean_rows=rows / forwards if forwards else 0.0,
        num_skipped=sum(ticket.metrics.num_skipped for ticket in tickets),
        num_guidance_held=sum(ticket.metrics.num_guidance_held for ticket in tickets),
    )


def _facts(pipeline: DiffusionPipeline) -> dict[str, object]:
    components = {
        name: {"class": type(part).__name__, "parameters": sum(p.numel() for p in part.parameters())}
        for name, part in pipeline.components.items()
        if hasattr(part, "parameters")
    }
    return {
        "pipeline": type(pipeline).__name__,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": str(pipeline.device),
        "components": components,
    }
