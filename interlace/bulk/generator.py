"""What a bulk run needs of the thing that makes images, and `Omni` seen as such a thing."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from interlace.bulk.rows import Job
from interlace.errors import InvalidRequestError
from interlace.request import Output, Request

if TYPE_CHECKING:
    from interlace.omni import Omni


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
    """The local engine as a generator."""

    def __init__(self, omni: "Omni") -> None:
        self._omni = omni
        described = omni.describe()
        scheduler = getattr(omni.model.pipeline, "scheduler", None)
        self._constant = {"pipeline": described["pipeline"], "dtype": described["dtype"]}
        if scheduler is not None:
            self._constant["scheduler"] = type(scheduler).__name__
        self._device = described["device"]

    def submit(self, job: Job) -> "Future[Output]":
        try:
            media = {"multi_modal_data": {"image": [source.load() for source in job.images]}} if job.images else {}
        except OSError as error:
            failed: Future[Output] = Future()
            failed.set_result(Output(request_id=job.name, prompt=job.prompt, error=InvalidRequestError(str(error))))
            return failed
        return self._omni.submit({"prompt": job.prompt, "request_id": job.name, **media}, job.sampling)

    def resolved(self, job: Job) -> Mapping[str, Any]:
        request = Request(request_id=job.name, prompt=job.prompt, sampling=job.sampling)
        return {**self._omni.arguments.resolved(request), **self._constant}

    def abort(self, job: Job) -> None:
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
        self._omni.close()
