"""A language model that answers rows in text, and aloud where it speaks, as what a bulk run needs of a generator.

What a row says of sampling (max_tokens, temperature, voice, ...) comes in its sampling parameters' `extra`.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from interlace.bulk.input.rows import Job
from interlace.bulk.loading import Loaders, media_of
from interlace.errors import InvalidRequestError
from interlace.request import ARSamplingParams, Output, Request

if TYPE_CHECKING:
    from interlace.omni import Omni


class AnswerGenerator:
    """`speaks`: answers are spoken, too. Raises `InvalidRequestError` for a model that can't."""

    def __init__(self, omni: "Omni", *, speaks: bool) -> None:
        self._omni, self._loaders, self._speaks = omni, Loaders(omni), speaks
        (stage,) = omni.describe()["stages"]
        if speaks and not stage.get("voices"):
            omni.close()
            text = f"{stage['model']} doesn't speak; take --output-format txt, or name an omni-modal model"
            raise InvalidRequestError(text, "output_format")
        told = {"pipeline": stage.get("class"), "dtype": stage.get("dtype")}
        self._constant = {name: value for name, value in told.items() if value is not None}
        self._device = str(stage.get("device", ""))

    def submit(self, job: Job) -> "Future[Output]":
        return self._loaders.submit(job, self._request)

    def gathering(self) -> AbstractContextManager[None]:
        return self._omni.pipeline.gathering()

    def _request(self, job: Job) -> Request:
        images, others = media_of(job)
        said = dict(job.sampling.extra)
        longest = said.pop("max_speech_tokens", None)
        speech = {} if longest is None else {"max_tokens": longest}
        modalities = ("text", "audio") if self._speaks else ("text",)
        sampling = ARSamplingParams(seed=job.sampling.seed, modalities=modalities, speech=speech, **said)
        return Request(
            request_id=job.name, prompt=job.prompt or None, sampling=sampling, images=images, model_inputs=others
        )

    def resolved(self, job: Job) -> Mapping[str, Any]:
        return {**job.sampling.extra, **self._constant}

    def abort(self, job: Job) -> None:
        self._loaders.abort(job)

    def mean_rows(self) -> float | None:
        found = self._counts().get("mean_rows", {})
        return found.get("thinker")

    def facts(self) -> Mapping[str, object]:
        counts = self._counts()
        engine = {name: counts[name] for name in ("forwards", "rows", "mean_rows", "unfused") if name in counts}
        return {**self._constant, "device": self._device, "engine": engine}

    def _counts(self) -> Mapping[str, Any]:
        """Of the part that writes, where the model has parts."""
        counts: Mapping[str, Any] = self._omni.pipeline.links[0].stage.stats()
        return dict(counts.get("thinker", {}))

    def close(self) -> None:
        self._loaders.close()
        self._omni.close()
