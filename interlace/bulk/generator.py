"""What a bulk run needs of the thing that makes images, and `Omni` seen as such a thing."""

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from interlace.bulk.input.rows import Job
from interlace.bulk.loading import Loaders, media_of
from interlace.bulk.report.summary import denoiser_of
from interlace.engine.statistics import EngineStatistics
from interlace.errors import InvalidRequestError
from interlace.models.editing import EditModel
from interlace.models.text_limits import TextLimits
from interlace.python.given import with_control_images
from interlace.request import Output, Request, SamplingParams

if TYPE_CHECKING:
    from interlace.omni import Omni
    from interlace.stages.flow.link import StageCounts


class Generator(Protocol):
    """Anything that turns a prompt into an image: the engine, or later a service."""

    def submit(self, job: Job) -> "Future[Output]":
        """Never raises: what goes wrong is in `Output.error`."""

    def gathering(self) -> AbstractContextManager[None]:
        """Within, jobs are submitted one after the other that are to start together."""

    def resolved(self, job: Job) -> Mapping[str, Any]:
        """Every parameter that the job runs with, the model's own defaults included."""

    def abort(self, job: Job) -> None:
        """Its future ends soon, with an error."""

    def mean_rows(self) -> float | None:
        """Rows per forward of the module that is called most often, so far; None where there are no forwards."""

    def facts(self) -> Mapping[str, object]:
        """What a summary should say of model and machine."""

    def close(self) -> None: ...


class OmniGenerator:
    """The local engine as a generator. `edit` says how its model wants the pictures of an edit."""

    def __init__(self, omni: "Omni", edit: EditModel | None = None) -> None:
        self._omni, self._edit = omni, edit
        self._loaders = Loaders(omni)
        described = omni.describe()
        scheduler = getattr(omni.model.pipeline, "scheduler", None)
        self._constant = {"pipeline": described["pipeline"], "dtype": described["dtype"]}
        if scheduler is not None:
            self._constant["scheduler"] = type(scheduler).__name__
        self._device = described["device"]
        several = [config.model for config in omni.configs] if len(omni.configs) > 1 else []
        self._limits = TextLimits(omni.model.pipeline)
        self._stages = {"stages": several} if several else {}

    def submit(self, job: Job) -> "Future[Output]":
        if not job.pictures:
            return self._omni.submit(job.request())
        return self._loaders.submit(job, self._loaded)

    def gathering(self) -> AbstractContextManager[None]:
        return self._omni.pipeline.gathering()

    def _loaded(self, job: Job) -> Request:
        """With its pictures loaded."""
        images = [source.load() for source in job.images]
        sampling = self._sized(job.sampling, images[0].size) if images else job.sampling
        sampling = with_control_images(sampling, lambda source: source.load())
        inputs = {} if job.mask is None else {"mask_image": self._mask(job.mask.load(), images[0].size)}
        seen, others = media_of(job)
        request = job.request([*self._in_form(images), *seen])
        return replace(request, sampling=sampling, model_inputs={**inputs, **others})

    def _mask(self, mask: Any, size: tuple[int, int]) -> Any:
        """A mask of its picture's size, in grey. Raises `InvalidRequestError`."""
        if "mask_image" not in self._omni.arguments.parameters:
            text = f"{self._constant['pipeline']} takes no mask"
            how = "leave the column mask out, or name a pipeline that inpaints with --model-type"
            raise InvalidRequestError(f"{text}; {how}", "mask")
        if mask.size != size:
            got, wanted = ("x".join(map(str, one)) for one in (mask.size, size))
            raise InvalidRequestError(f"the mask is {got}, its picture {wanted}; expected equal sizes", "mask")
        return mask.convert("L")

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
        resolved = self._omni.arguments.resolved(job.request())
        cut = None if self._stages else self._limits.cut(job.prompt, resolved)
        told = {} if cut is None else {"prompt_cut": cut}
        return {**resolved, **self._constant, **self._stages, **told}

    def abort(self, job: Job) -> None:
        self._loaders.abort(job)

    def mean_rows(self) -> float | None:
        counts = self._omni.engine.statistics()
        return counts.mean_rows[denoiser_of(counts.forwards)] if counts.forwards else None

    def facts(self) -> Mapping[str, object]:
        counts = self._omni.engine.statistics()
        names = ("forwards", "rows", "mean_rows", "unfused", "seconds")
        every = counts.as_dict()
        shown = {name: every[name] for name in names} if counts != EngineStatistics() else {}
        stages = {"stages": [_told(one) for one in self._omni.pipeline.counts()]} if self._stages else {}
        return {**self._constant, "device": self._device, "engine": shown, **stages}

    def close(self) -> None:
        self._loaders.close()
        self._omni.close()


def _told(counts: "StageCounts") -> dict[str, Any]:
    kept = ("stage_id", "stage_type", "model", "finished", "failed", "seconds")
    return {name: getattr(counts, name) for name in kept}
