"""`Omni`: prompts in, outputs out, through a pipeline of one or more stages. Knows nothing of what a stage is."""

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diffusers import DiffusionPipeline

from interlace.config import EngineConfig
from interlace.engine.engine import Engine
from interlace.engine.group.config import GroupConfig
from interlace.errors import InvalidRequestError
from interlace.extras import NAMES, split_extras
from interlace.models.arguments import ArgumentMapper
from interlace.models.loader import LoadedModel, load_model
from interlace.models.optimize import Optimizations, chosen
from interlace.prompts import Prompt
from interlace.python.given import opened, with_keywords, with_pictures
from interlace.python.shown import Bar, both, in_notebook, warn_of_cuts, warn_of_failures
from interlace.request import Output, Progress, Request
from interlace.stages.config import OmniStageConfig, check_stages
from interlace.stages.deploy import load_deploy_config
from interlace.stages.diffusion import DiffusionStage
from interlace.stages.opening import model_in_processes, open_pipeline, over_model
from interlace.stages.parse import Given, parse
from interlace.stages.pipeline import Pipeline
from interlace.stages.prompt_caches import PromptCaches
from interlace.stages.replicas.front import DrawingReplicas, ReplicaEngines
from interlace.stages.stage import Listener

__all__ = ["Omni", "OutputListener", "ProgressListener", "Prompt"]

ProgressListener = Callable[[Progress], None]
OutputListener = Callable[[Output], None]
_ids = itertools.count()


class Omni:
    """Generates for many prompts at once with one model, or with several in a row.

    `model` is a directory, a hub id, a built-in name, a checkpoint in one file, a loaded pipeline or a `LoadedModel`,
    or a `Pipeline` of stages that are open already;
    `options` are fields of `EngineConfig` and of `Extras` (lora, component, quantize, ...).
    In its place `stages` (configs) or `deploy_config` (a file) name several models, each of which batches on its own;
    a request may then say things for one stage alone: `{"prompt": ..., "stages": [{...}, {...}]}`.
    `replicas` run the model in so many processes, each on devices of its own, `parallel` over the ranks of a group.

    Raises `ModelLoadError`, or `InvalidRequestError` for wrong options and for stages that don't fit together.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel | DiffusionPipeline | Pipeline = "demo",
        *,
        stages: Sequence[OmniStageConfig] | None = None,
        deploy_config: str | Path | None = None,
        return_stages: bool = False,
        dtype: str | None = None,
        device: str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        pipeline_class: str | None = None,
        optimizations: Optimizations | None = None,
        num_workers: int = 4,
        replicas: int = 1,
        parallel: GroupConfig | None = None,
        **options: Any,
    ) -> None:
        _check_options(options, stages, deploy_config)
        self.return_stages = return_stages
        self.prompt_caches = PromptCaches()
        if isinstance(model, Pipeline):
            self.pipeline = model
            return
        if stages is not None or deploy_config is not None:
            configs = check_stages(
                stages if stages is not None else load_deploy_config(Path(str(deploy_config)), str(model))
            )
            self.pipeline = open_pipeline(configs, self.prompt_caches)
            return
        extras, options = split_extras(options)
        EngineConfig(**options)  # refuses what can't be before anything is loaded
        load: dict[str, Any] = {
            "dtype": dtype,
            "variant": variant,
            "revision": revision,
            "local_files_only": local_files_only,
            "pipeline_class": pipeline_class,
            "optimizations": chosen(optimizations, batch_invariant=options.get("batch_invariant")),
        }
        if replicas != 1 or parallel is not None:
            config = model_in_processes(model, {**options, **load, **extras.set()}, device, replicas, parallel)
            self.pipeline = open_pipeline([config], self.prompt_caches)
            return
        if isinstance(model, DiffusionPipeline):
            model = LoadedModel.around(model, extras)
        loaded = model if isinstance(model, LoadedModel) else load_model(model, device=device, extras=extras, **load)
        self.pipeline = over_model(loaded, options, self.prompt_caches, num_workers)

    @property
    def configs(self) -> tuple[OmniStageConfig, ...]:
        """The stages, in order."""
        return self.pipeline.configs

    @property
    def model(self) -> LoadedModel:
        """Of the last stage that draws, as the two below. Raises `AttributeError` where none does."""
        return self._drawing.model

    @property
    def arguments(self) -> ArgumentMapper:
        """What its pipeline takes."""
        return self._drawing.arguments

    @property
    def engine(self) -> Engine | ReplicaEngines:
        """What runs it."""
        return self._drawing.engine

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Given | Mapping[str, Any] = None,
        *,
        raise_on_error: bool | None = None,
        on_progress: ProgressListener | None = None,
        on_output: OutputListener | None = None,
        return_stages: bool | None = None,
        progress: bool | None = None,
        **keywords: Any,
    ) -> list[Output]:
        """One output a prompt, in order; a request that failed has its `error` set, and a warning tells of it.

        `sampling_params` may be a dict, and `keywords` are laid over it: `num_inference_steps=4`, `image=picture`, any
        argument of the pipeline. `on_output` is called with each output as it is done, in a worker's thread; all calls
        are over when this returns, and what one of them raised is raised then. With `raise_on_error` the first error is
        raised once all requests have ended; by default that of a single text is, as diffusers' pipelines do. `progress`
        shows a bar; by default in notebooks.
        """
        items = [prompts] if isinstance(prompts, (str, Mapping, Request)) else list(prompts)
        given = with_keywords(sampling_params, keywords)
        items = [with_pictures(item, keywords) for item in items]
        with Bar(len(items), shown=in_notebook() if progress is None else progress) as bar:
            told = both(on_progress, bar.on_progress) if bar.is_shown else on_progress
            with self.pipeline.gathering():
                futures = [self.submit(item, given, on_progress=told, return_stages=return_stages) for item in items]
            outputs = _gather(futures, on_output)
        raises = isinstance(prompts, str) if raise_on_error is None else raise_on_error
        for output in outputs:
            if raises and output.error is not None:
                raise output.error
        warn_of_failures(outputs)
        warn_of_cuts(outputs)
        return outputs

    def submit(
        self,
        prompt: Prompt,
        sampling_params: Given | Mapping[str, Any] = None,
        *,
        request_id: str | None = None,
        on_progress: ProgressListener | None = None,
        preview_every: int = 0,
        return_stages: bool | None = None,
        listener: Listener | None = None,
    ) -> "Future[Output]":
        """Queue one request. The future always gets an `Output`; what went wrong is in its `error`.

        `prompt` is a text, a dict or a `Request`. `sampling_params` are of one kind (for every stage that takes it),
        one a stage, or a mapping by stage id. `preview_every` > 0 adds a small picture to the progress of every so
        many steps. `on_progress` hears of steps, previews and texts, `listener` of the start as well.
        """
        name = request_id or name_of(prompt) or f"omni-{next(_ids)}"
        try:
            given = with_keywords(sampling_params, {})
            request = prompt if isinstance(prompt, Request) else opened(parse(prompt, given, self.configs, name))
            told = listener if listener is not None else _without_start(on_progress)
            return self.pipeline.submit(
                request.named(name, preview_every or request.preview_every),
                told,
                return_stages=self.return_stages if return_stages is None else return_stages,
            )
        except Exception as error:  # whatever was given: its owner waits for an output
            refused: Future[Output] = Future()
            refused.set_result(Output(request_id=name, prompt=_text_of(prompt), error=error))
            return refused

    def abort(self, request_id: str) -> bool:
        """End a request wherever it is. False when there is no such request."""
        return self.pipeline.abort(request_id)

    def describe(self) -> dict[str, Any]:
        """What the model that draws is and does (class, components, defaults, limits), and each stage as `stages`."""
        return self.pipeline.describe()

    def close(self) -> None:
        """Stop every stage; pending requests end with an error. May be called twice."""
        self.pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _drawing(self) -> DiffusionStage | DrawingReplicas:
        found = self.pipeline.drawing
        if found is None:
            raise AttributeError("none of the stages draws; expected one with stage_type: diffusion")
        return found


def _check_options(options: Mapping[str, Any], stages: Any, deploy_config: Any) -> None:
    known = {f.name for f in fields(EngineConfig)} | NAMES
    for name in options:
        if name not in known:
            raise InvalidRequestError(f"unknown option {name!r}; expected one of {', '.join(sorted(known))}", name)
    if stages is not None and deploy_config is not None:
        raise InvalidRequestError("expected either stages or deploy_config, and not both", "stages")
    if options and (stages is not None or deploy_config is not None):
        name = next(iter(options))
        raise InvalidRequestError(f"{name} is given beside stages; put it into a stage's engine_args", name)


def _gather(futures: Sequence["Future[Output]"], on_output: OutputListener | None) -> list[Output]:
    told, errors = threading.Semaphore(0), list[BaseException]()

    def hand_out(done: "Future[Output]") -> None:
        try:
            if on_output is not None:
                on_output(done.result())
        except BaseException as error:  # the caller's own: it is raised where they called
            errors.append(error)
        finally:
            told.release()

    for future in futures:
        future.add_done_callback(hand_out)
    for _ in futures:
        told.acquire()
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


def _without_start(on_progress: ProgressListener | None) -> Listener | None:
    if on_progress is None:
        return None
    return lambda event: None if event.kind in ("started", "ended") else on_progress(event)


def name_of(prompt: object) -> str | None:
    """The id that a prompt brings along."""
    given = prompt.get("request_id") if isinstance(prompt, Mapping) else getattr(prompt, "request_id", None)
    return None if given is None else str(given)


def _text_of(prompt: Any) -> str | None:
    text = prompt.get("prompt") if isinstance(prompt, Mapping) else getattr(prompt, "prompt", prompt)
    return text if isinstance(text, str) else None
