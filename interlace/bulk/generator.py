"""What a bulk run needs of the thing that makes images, and `Omni` seen as such a thing."""

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from interlace.bulk.rows import Job
from interlace.errors import AbortedError
from interlace.models.editing import EditModel
from interlace.request import Output, Request, SamplingParams

if TYPE_CHECKING:
    from interlace.omni import Omni

_NUM_LOADERS = 4  # threads that read and decode pictures


class Generator(Protocol):
    """Anything that turns a prompt into an image: the engine, or later a service."""

    def submit(self, job: Job) -> "Future[Output]":
        """Never raises: what goes wrong is in `Output.error`."""

    def resolved(self, job: Job) -> Mapping[str, Any]:
        """Every parameter that the job runs with, the model's own defaults included."""

    def abort(self, job: Job) -> None:
        """Its future ends soon, with an error."""

    def mean_rows(self) -> float | None:
        """Rows per forward of the module that is called most often, so far; None where there are no forwards."""

    def facts(self) -> Mapping[str, Any]:
        """What a summary should say of model and machine."""

    def close(self) -> None: ...


class OmniGenerator:
    """The local engine as a generator. `edit` says how its model wants the pictures of an edit."""

    def __init__(self, omni: "Omni", edit: EditModel | None = None) -> None:
        self._omni, self._edit = omni, edit
        self._loaders = ThreadPoolExecutor(_NUM_LOADERS, thread_name_prefix="interlace-images")
        self._loading: set[str] = set()
        self._lock = threading.Lock()
        described = omni.describe()
        scheduler = getattr(omni.model.pipeline, "scheduler", None)
        self._constant = {"pipeline": described["pipeline"], "dtype": described["dtype"]}
        if scheduler is not None:
            self._constant["scheduler"] = type(scheduler).__name__
        self._device = described["device"]

    def submit(self, job: Job) -> "Future[Output]":
        if not job.images:
            return self._omni.submit({"prompt": job.prompt, "request_id": job.name}, job.sampling)
        with self._lock:
            self._loading.add(job.name)
        result: Future[Output] = Future()
        self._loaders.submit(self._submit_edit, job, result)
        return result

    def _submit_edit(self, job: Job, result: "Future[Output]") -> None:
        """Pictures may be large, or far away: they are loaded on other threads."""
        try:
            images = [source.load() for source in job.images]
            item = {"prompt": job.prompt, "request_id": job.name, "multi_modal_data": {"image": self._in_form(images)}}
            sampling = self._sized(job.sampling, images[0].size)
            with self._lock:
                if job.name not in self._loading:
                    raise AbortedError(f"{job.name} was aborted")
                self._loading.remove(job.name)
                future = self._omni.submit(item, sampling)
        except Exception as error:
            with self._lock:
                self._loading.discard(job.name)
            result.set_result(Output(request_id=job.name, prompt=job.prompt, error=error))
        else:
            future.add_done_callback(lambda done: result.set_result(done.result()))

    def _in_form(self, images: list[Any]) -> list[Any]:
        """What is one picture to the engine is a list to pipelines that want lists."""
        if self._edit is None or not self._edit.as_list:
            return images
        from interlace.models.glm import fit_picture

        return [[fit_picture(self._omni.model.pipeline, image) for image in images]]

    def _sized(self, sampling: SamplingParams, size: tuple[int, int]) -> SamplingParams:
        """An edit has its picture's shape where no size was asked for."""
        rule = None if self._edit is None else self._edit.size
        if rule is None or sampling.height is not None or sampling.width is not None:
            return sampling
        if not {"height", "width"} <= self._omni.arguments.parameters.keys():
            return sampling
        width, height = rule.size(size, self._omni.model.defaults, self._omni.model.limits)
        return replace(sampling, width=width, height=height)

    def resolved(self, job: Job) -> Mapping[str, Any]:
        request = Request(request_id=job.name, prompt=job.prompt, sampling=job.sampling)
        return {**self._omni.arguments.resolved(request), **self._constant}

    def abort(self, job: Job) -> None:
        with self._lock:
            self._loading.discard(job.name)
            self._omni.abort(job.name)

    def mean_rows(self) -> float | None:
        stats = self._omni.engine.stats()
        forwards = stats["forwards"]
        if not forwards:
            return None
        busiest = max(forwards, key=lambda module: forwards[module])
        return float(stats["mean_rows"][busiest])

    def facts(self) -> Mapping[str, Any]:
        stats = self._omni.engine.stats()
        shown = {name: stats[name] for name in ("forwards", "rows", "mean_rows", "unfused") if name in stats}
        return {**self._constant, "device": self._device, "engine": shown}

    def close(self) -> None:
        self._loaders.shutdown()
        self._omni.close()
