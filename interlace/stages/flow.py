"""A request on its way through the stages: what it asked for, where it stands, what came out so far."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from interlace.request import Metrics, Output, Progress
from interlace.stages.sampling_params import StageParams


@dataclass(eq=False)
class Flow:
    """Mutable, owned by the pipeline; `lock` guards `index`, `over` and `error`."""

    request_id: str
    user_prompt: Mapping[str, Any]
    prompts: tuple[Mapping[str, Any], ...]  # the user's, with each stage's own part over it
    params: tuple[StageParams, ...]
    future: "Future[Output]"
    timeout_s: float | None = None
    return_stages: bool = False
    tell: Callable[[Progress], None] | None = None
    preview_every: int = 0
    index: int = 0  # the stage that it is at, or waits for
    outputs: list[Output] = field(default_factory=list)
    error: Exception | None = None  # why it ends early
    over: bool = False
    submitted: float = field(default_factory=monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def output(self) -> Output:
        """What it came to: the last stage's output with the text on the way, or its error."""
        last = self.outputs[-1] if self.outputs else Output(request_id=self.request_id)
        texts = [one.text for one in self.outputs if one.text is not None]
        error = self.error if self.error is not None else last.error
        made = {} if error is not None else {"images": last.images, "frames": last.frames, "audio": last.audio,
                                             "hidden_states": last.hidden_states}  # fmt: skip
        return Output(
            request_id=self.request_id,
            prompt=self.user_prompt.get("prompt"),
            text=texts[-1] if texts else None,
            stages=[one if self.return_stages else _without_content(one) for one in self.outputs],
            seeds=last.seeds,
            error=error,
            metrics=self._metrics(),
            **made,
        )

    def _metrics(self) -> Metrics:
        each = [one.metrics for one in self.outputs]
        sums = {name: sum(getattr(one, name) for one in each)
                for name in vars(Metrics()) if name not in ("queue_s", "total_s", "mean_rows")}  # fmt: skip
        rows = sum(one.mean_rows * one.num_forwards for one in each)
        return Metrics(
            **sums,
            queue_s=each[0].queue_s if each else 0.0,
            total_s=monotonic() - self.submitted,
            mean_rows=rows / sums["num_forwards"] if sums["num_forwards"] else 0.0,
        )


def _without_content(output: Output) -> Output:
    return Output(
        request_id=output.request_id,
        prompt=output.prompt,
        seeds=output.seeds,
        error=output.error,
        metrics=output.metrics,
    )
