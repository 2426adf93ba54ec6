"""`Omni` over several stages: what `Omni(stages=...)` and `Omni(deploy_config=...)` make."""

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from interlace.errors import InterlaceError, InvalidRequestError
from interlace.omni import Omni, ProgressListener, Prompt
from interlace.request import SAMPLING_FIELDS, Output
from interlace.stages.config import OmniStageConfig, check_stages
from interlace.stages.deploy import load_deploy_config
from interlace.stages.flow import Flow
from interlace.stages.gate import Gate
from interlace.stages.handoff import resolve as resolve_handoff
from interlace.stages.pipeline import Link, Pipeline
from interlace.stages.sampling_params import AR_FIELDS, Given, given_for, resolve, with_seed
from interlace.stages.stage import DiffusionStage, PromptCaches, Replicas, Stage, open_stage

_ids = itertools.count()
_PLAIN = frozenset({"prompt", "multi_modal_data", "request_id", "stages"})
_ONCE = frozenset({"num_images"})  # what belongs to the last stage alone


class OmniStages(Omni):
    """Requests in, outputs out, through several models in a row.

    `model`, `arguments` and `engine` are those of the last stage that draws, where one does; `pipeline` has all.
    A request may say things for one stage alone: `{"prompt": ..., "stages": [{...}, {...}]}`.
    Raises `ModelLoadError`, or `InvalidRequestError` for stages that don't fit together.
    """

    def __init__(
        self,
        model: object = None,
        *,
        stages: Sequence[OmniStageConfig] | None = None,
        deploy_config: str | Path | None = None,
        return_stages: bool = False,
    ) -> None:
        if (stages is None) == (deploy_config is None):
            raise InvalidRequestError("expected either stages or deploy_config, and not both", "stages")
        self.configs = check_stages(stages if stages is not None else load_deploy_config(Path(str(deploy_config))))
        self.return_stages = return_stages
        handoffs = [None if one.handoff is None else resolve_handoff(one.handoff) for one in self.configs]
        self.prompt_caches = PromptCaches()
        opened: list[Stage] = []
        try:
            for config in self.configs:
                opened.append(open_stage(config, self.prompt_caches))
        except BaseException:
            for stage in opened:
                stage.close()
            raise
        self.pipeline = Pipeline(
            [Link(config, stage, handoff, Gate(config.limit))
             for config, stage, handoff in zip(self.configs, opened, handoffs, strict=True)]
        )  # fmt: skip
        drawing = _drawing(opened)
        if drawing is not None:
            self.model, self.arguments, self.engine = drawing.model, drawing.arguments, drawing.engine

    def submit(
        self,
        prompt: Prompt,
        sampling_params: Given = None,
        *,
        request_id: str | None = None,
        on_progress: ProgressListener | None = None,
        preview_every: int = 0,
        return_stages: bool | None = None,
    ) -> "Future[Output]":
        """Queue one request. The future always gets an `Output`; what went wrong is in its `error`.

        `sampling_params` are of one kind (for every stage that takes it), one a stage, or a mapping by stage id.
        """
        future: Future[Output] = Future()
        given = prompt.get("request_id") if isinstance(prompt, Mapping) else None
        name = str(request_id or given or f"omni-{next(_ids)}")
        try:
            flow = self.flow(prompt, name, sampling_params, future)
            flow.tell, flow.preview_every = on_progress, preview_every
            flow.return_stages = self.return_stages if return_stages is None else return_stages
            self.pipeline.submit(flow)
        except (InterlaceError, TypeError) as error:
            text = prompt if isinstance(prompt, str) else None
            future.set_result(Output(request_id=name, prompt=text, error=error))
        return future

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Given = None,
        *,
        raise_on_error: bool = False,
        on_progress: ProgressListener | None = None,
        on_output: Callable[[Output], None] | None = None,
        return_stages: bool | None = None,
    ) -> list[Output]:
        """One output a prompt, in order, as `Omni.generate`; with `return_stages` what each stage made, too."""
        items = [prompts] if isinstance(prompts, (str, Mapping)) else list(prompts)
        futures = [
            self.submit(item, sampling_params, on_progress=on_progress, return_stages=return_stages) for item in items
        ]
        return self._gather(futures, raise_on_error, on_output)

    def abort(self, request_id: str) -> bool:
        """End a request wherever it is. False when there is no such request."""
        return self.pipeline.abort(request_id)

    def describe(self) -> dict[str, Any]:
        """The drawing model's description, and one for each stage."""
        each = [link.stage.describe() for link in self.pipeline.links]
        last = next((one for one in reversed(each) if "pipeline" in one), each[-1])
        own = [
            {"stage_id": config.stage_id, "stage_type": config.stage_type, **described,
             "handoff": config.handoff.function if config.handoff else None}
            for config, described in zip(self.configs, each, strict=True)
        ]  # fmt: skip
        return {**last, "model": " -> ".join(config.model for config in self.configs), "stages": own}

    def close(self) -> None:
        """Stop every stage; pending requests end with an error."""
        self.pipeline.close()

    def flow(self, prompt: Prompt, name: str, given: Given = None, future: "Future[Output] | None" = None) -> Flow:
        """A request with what it is at every stage, ready for the pipeline. Raises `InvalidRequestError`."""
        user = {"prompt": prompt} if isinstance(prompt, str) else dict(prompt)
        user.pop("request_id", None)
        parts = self._parts_of(user.pop("stages", None))
        self._check_fields([user, *parts])
        owns = [{**user, **part} for part in parts]
        params = [
            resolve(config, given_for(given, self.configs, index), owns[index])
            for index, config in enumerate(self.configs)
        ]
        seeds = [own.get("seed", one.seed) for own, one in zip(owns, params, strict=True)]
        seed = next((one for one in seeds if one is not None), secrets.randbelow(2**32))
        timeouts = [
            own.pop("timeout_s", getattr(one, "timeout_s", None)) for own, one in zip(owns, params, strict=True)
        ]
        return Flow(
            request_id=name,
            user_prompt=user,
            prompts=tuple(self._for_stage(index, own, parts[index]) for index, own in enumerate(owns)),
            params=tuple(with_seed(one, seed) for one in params),
            future=future or Future(),
            timeout_s=min((one for one in timeouts if one is not None), default=None),
        )

    def _for_stage(self, index: int, own: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
        """What of a request is a stage's prompt; the number of images is the last stage's affair."""
        config = self.configs[index]
        wanted = _PLAIN | (SAMPLING_FIELDS if config.stage_type == "diffusion" else frozenset())
        if index < len(self.configs) - 1:
            wanted = wanted - (_ONCE - part.keys())
        return {key: value for key, value in own.items() if key in wanted}

    def _parts_of(self, parts: Any) -> list[Mapping[str, Any]]:
        """What a request says for each stage alone."""
        if parts is None:
            return [{} for _ in self.configs]
        if isinstance(parts, Mapping):
            parts = [parts.get(config.stage_id, parts.get(str(config.stage_id))) for config in self.configs]
        if not isinstance(parts, Sequence) or len(parts) != len(self.configs):
            raise InvalidRequestError(
                f"the request's stages are {parts!r}; expected {len(self.configs)} dicts, one a stage", "stages"
            )
        return [dict(part or {}) for part in parts]

    def _check_fields(self, parts: Sequence[Mapping[str, Any]]) -> None:
        known = _PLAIN | SAMPLING_FIELDS | AR_FIELDS
        for part in parts:
            for key in part:
                if key not in known:
                    raise InvalidRequestError(
                        f"unknown field {key!r}; expected one of {', '.join(sorted(known))}", str(key)
                    )


def _drawing(stages: Sequence[Stage]) -> Omni | None:
    """The last stage that draws."""
    for stage in reversed(stages):
        first = stage.copies[0] if isinstance(stage, Replicas) else stage
        if isinstance(first, DiffusionStage):
            return first.omni
    return None
