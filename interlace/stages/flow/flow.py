"""A request on its way through the stages: what it asked for, where it stands, what came out so far."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from time import monotonic

from interlace.request import Metrics, Output, Request
from interlace.stages.stage import Listener


@dataclass(eq=False)
class Flow:
    """Mutable, owned by the pipeline; `lock` guards `index`, `over` and `error`."""

    request: Request
    at: tuple[Request, ...]  # what each stage is to do, before anything is handed over
    listener: Listener | None = None
    return_stages: bool = False
    future: "Future[Output]" = field(default_factory=Future)
    index: int = 0  # the stage that it is at, or waits for
    outputs: list[Output] = field(default_factory=list)
    error: Exception | None = None  # why it ends early
    over: bool = False
    submitted: float = field(default_factory=monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def timeout_s(self) -> float | None:
        """Of the whole way: the shortest that anything said."""
        said = (getattr(one.sampling, "timeout_s", None) for one in (self.request, *self.at))
        return min((one for one in said if one is not None), default=None)

    @property
    def left_s(self) -> float | None:
        """Seconds until its timeout."""
        timeout_s = self.timeout_s
        return None if timeout_s is None else max(timeout_s - (monotonic() - self.submitted), 0.0)

    def output(self) -> Output:
        """What it came to: the last stage's output with the text on the way, or its error."""
        last = self.outputs[-1] if self.outputs else Output(request_id=self.request_id)
        texts = [one.text for one in self.outputs if one.text is not None]
        error = self.error if self.error is not None else last.error
        made = last if error is None else Output(request_id=self.request_id, seeds=last.seeds)
        return replace(
            made,
            request_id=self.request_id,
            prompt=self.request.prompt,
            text=texts[-1] if texts else None,
            stages=[one if self.return_stages else _without_content(one) for one in self.outputs],
            error=error,
            metrics=self._metrics(),
        )

    def _metrics(self) -> Metrics:
        each = [one.metrics for one in self.outputs]
        if len(self.at) == 1 and each:
            return each[0]
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
