"""What a pipeline needs of a stage, and the stages that there are."""

import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from interlace.engine.prompt_cache import PromptCache
from interlace.engine.thread import Engine
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from interlace.models.optimize import Optimizations
from interlace.omni import Omni
from interlace.request import Output, Progress, SamplingParams
from interlace.stages.ar_config import ARSamplingParams
from interlace.stages.config import LOAD_OPTIONS, OmniStageConfig
from interlace.stages.sampling_params import set_fields

ProgressListener = Callable[[Progress], None]
Params = SamplingParams | ARSamplingParams


class Stage(Protocol):
    """Takes prompts and gives outputs, many at once, batching by itself."""

    def submit(
        self,
        prompt: Mapping[str, Any],
        params: Any,
        *,
        request_id: str,
        on_progress: ProgressListener | None = None,
    ) -> "Future[Output]":
        """Never raises for a bad request: what went wrong is in `Output.error`."""

    def abort(self, request_id: str) -> bool:
        """Its future ends soon. False when there is no such request."""

    def stats(self) -> dict[str, Any]: ...

    def describe(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class DiffusionStage:
    """An `Omni` as a stage."""

    def __init__(self, config: OmniStageConfig, replica: int = 0, caches: "PromptCaches | None" = None) -> None:
        options = dict(config.engine_args)
        load = {name: options.pop(name) for name in LOAD_OPTIONS if name in options}
        if isinstance(load.get("optimizations"), str):
            load["optimizations"] = Optimizations(names=tuple(load["optimizations"].replace(",", " ").split()))
        model = load_model(config.model, device=config.device_of(replica), **load)
        if config.dit_config.scheduler is not None:
            _set_scheduler(model.pipeline, config.dit_config.scheduler)
        takes = inspect.signature(model.pipeline.__call__).parameters
        own = {name: value for name, value in set_fields(config.sampling()).items() if name in takes}
        self.omni = Omni(replace(model, defaults={**model.defaults, **own}), **options)
        if caches is not None:
            caches.share(self.omni.engine)

    def submit(
        self,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        *,
        request_id: str,
        on_progress: ProgressListener | None = None,
        preview_every: int = 0,
    ) -> "Future[Output]":
        return self.omni.submit(
            prompt, params, request_id=request_id, on_progress=on_progress, preview_every=preview_every
        )

    def abort(self, request_id: str) -> bool:
        return self.omni.abort(request_id)

    def stats(self) -> dict[str, Any]:
        return self.omni.engine.stats()

    def describe(self) -> dict[str, Any]:
        return self.omni.describe()

    def close(self) -> None:
        self.omni.close()


class PromptCaches:
    """Stages that encode prompts share a cache where its settings are equal: one budget, and hits across stages."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], PromptCache] = {}

    def share(self, engine: Engine) -> None:
        """Gives an engine that keeps text encodings the cache of those before it."""
        own = engine.prompt_cache
        if own is None:
            return
        shared = engine.prompt_cache = self._known.setdefault((own.capacity, own.policy), own)
        shared.by_content = shared.by_content or shared is not own

    def stats(self) -> list[dict[str, Any]]:
        return [cache.stats() for cache in self._known.values()]


class Replicas:
    """Several copies of one stage; each request goes to the one with the fewest."""

    def __init__(self, copies: list[Stage]) -> None:
        self.copies = copies
        self._lock = threading.Lock()
        self._load = [0] * len(copies)
        self._where: dict[str, int] = {}

    def submit(self, prompt: Mapping[str, Any], params: Any, *, request_id: str, **options: Any) -> "Future[Output]":
        with self._lock:
            place = min(range(len(self.copies)), key=self._load.__getitem__)
            self._load[place] += 1
            self._where[request_id] = place
        future = self.copies[place].submit(prompt, params, request_id=request_id, **options)
        future.add_done_callback(lambda _: self._left(request_id, place))
        return future

    def abort(self, request_id: str) -> bool:
        place = self._where.get(request_id)
        return place is not None and self.copies[place].abort(request_id)

    def stats(self) -> dict[str, Any]:
        return {"replicas": [copy.stats() for copy in self.copies]}

    def describe(self) -> dict[str, Any]:
        return {**self.copies[0].describe(), "replicas": len(self.copies)}

    def close(self) -> None:
        for copy in self.copies:
            copy.close()

    def _left(self, request_id: str, place: int) -> None:
        with self._lock:
            self._load[place] -= 1
            self._where.pop(request_id, None)


def open_stage(config: OmniStageConfig, caches: PromptCaches | None = None) -> Stage:
    """Loads what a config says. Raises `ModelLoadError` or `InvalidRequestError`; nothing stays open then."""
    copies: list[Stage] = []
    try:
        for replica in range(1 if config.remote else config.replicas):
            copies.append(_open_one(config, replica, caches))
    except BaseException:
        for copy in copies:
            copy.close()
        raise
    return copies[0] if len(copies) == 1 else Replicas(copies)


def _open_one(config: OmniStageConfig, replica: int, caches: PromptCaches | None) -> Stage:
    if config.stage_type == "diffusion":
        return DiffusionStage(config, replica, caches)
    if config.remote:
        from interlace.stages.ar_remote import RemoteARStage

        return RemoteARStage(config)
    from interlace.stages.ar_local import LocalARStage

    return LocalARStage(config, replica)


def _set_scheduler(pipeline: Any, name: str) -> None:
    import diffusers

    found = getattr(diffusers, name, None)
    if found is None or not hasattr(found, "from_config") or not name.endswith("Scheduler"):
        raise InvalidRequestError(f"scheduler is {name!r}; expected a scheduler class of diffusers", "scheduler")
    pipeline.scheduler = found.from_config(pipeline.scheduler.config)
