"""`OmniLLM` and `AsyncOmniLLM`: stages given as configs, requests given as one dict a stage."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

from interlace.async_omni import AsyncOmni
from interlace.errors import InvalidRequestError
from interlace.omni import Omni
from interlace.request import Output, Progress
from interlace.stages.config import OmniStageConfig
from interlace.stages.parse import Given

_COMMON = ("prompt", "multi_modal_data", "request_id")  # of a first stage's dict: holds for the whole request
StageArgs = Sequence[Mapping[str, Any]]


class OmniLLM:
    """Runs requests through stages.

    One request is `stage_args`: a dict for each stage, the first with the prompt. Several requests are a list of
    those. What a later stage's dict says holds there, except that a text that was handed over is its prompt.
    """

    def __init__(self, stage_configs: Sequence[OmniStageConfig], *, return_stages: bool = False) -> None:
        self.omni = Omni(stages=stage_configs, return_stages=return_stages)

    def generate(
        self,
        stage_args: StageArgs | Sequence[StageArgs],
        sampling_params: Given = None,
        *,
        raise_on_error: bool = False,
        return_stages: bool | None = None,
    ) -> list[Output]:
        """One output a request, in order; a request that failed has its `error` set.

        Raises `InvalidRequestError` for `stage_args` with too few or too many stages.
        """
        requests = requests_of(stage_args, len(self.omni.configs))
        return self.omni.generate(requests, sampling_params, raise_on_error=raise_on_error, return_stages=return_stages)

    def close(self) -> None:
        """Stop every stage; pending requests end with an error."""
        self.omni.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncOmniLLM:
    """`OmniLLM` for asyncio."""

    def __init__(self, stage_configs: Sequence[OmniStageConfig], *, return_stages: bool = False) -> None:
        self.omni = AsyncOmni(stages=stage_configs, return_stages=return_stages)
        self._num_stages = len(stage_configs)

    async def generate(
        self,
        stage_args: StageArgs,
        request_id: str | None = None,
        sampling_params: Given = None,
        *,
        return_stages: bool | None = None,
    ) -> AsyncIterator[Progress | Output]:
        """Yields progress of every stage, texts as they are written, and last the `Output`. Takes one request."""
        requests = requests_of(stage_args, self._num_stages)
        if len(requests) != 1:
            raise InvalidRequestError(f"got {len(requests)} requests; expected one a call", "stage_args")
        events = self.omni.generate(requests[0], sampling_params, request_id, return_stages=return_stages)
        async for event in events:
            yield event

    def abort(self, request_id: str) -> bool:
        """End a request wherever it is. False when there is no such request."""
        return self.omni.abort(request_id)

    async def close(self) -> None:
        """Stop every stage; pending requests end with an error."""
        await self.omni.close()


def requests_of(stage_args: object, num_stages: int) -> list[dict[str, object]]:
    """`stage_args` as prompts for `Omni.generate`."""
    if not isinstance(stage_args, Sequence) or isinstance(stage_args, str) or not stage_args:
        raise InvalidRequestError(
            f"stage_args is {stage_args!r}; expected a list with one dict for each of the {num_stages} stages",
            "stage_args",
        )
    if not isinstance(stage_args[0], Mapping):
        return [request for one in stage_args for request in requests_of(one, num_stages)]
    if len(stage_args) != num_stages:
        raise InvalidRequestError(
            f"stage_args has {len(stage_args)} dicts for {num_stages} stages; expected one a stage "
            "(several requests: a list of such lists)",
            "stage_args",
        )
    first = {name: value for name, value in stage_args[0].items() if name in _COMMON}
    own = [{name: value for name, value in one.items() if name not in first or value != first[name]}
           for one in stage_args]  # fmt: skip
    return [{**first, "stages": own}]
