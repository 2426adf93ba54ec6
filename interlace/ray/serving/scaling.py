"""How many replicas a load needs: by the seconds that they would take to be done with what they have. No torch, no Ray.

Each replica predicts its own seconds from the steps that are left and the speed that it was measured to have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from interlace.checks import check_number
from interlace.errors import InvalidRequestError
from interlace.request import Progress
from interlace.stages.replicas.routing import Speed


@dataclass(frozen=True, kw_only=True)
class Autoscaling:
    """From how many to how many replicas, and when. Raises `InvalidRequestError` for what makes no sense."""

    min_replicas: int = 1
    max_replicas: int = 4
    target_queue_s: float = 30.0
    """Seconds that the last of the requests that are there should have to wait."""
    upscale_delay_s: float = 10.0
    """Seconds for which more must be needed before there are more."""
    downscale_delay_s: float = 300.0
    """Seconds for which fewer must do before there are fewer: a model takes long to load."""
    metrics_interval_s: float = 2.0
    """Seconds between two looks."""

    def __post_init__(self) -> None:
        check_number("min_replicas", self.min_replicas, 1, whole=True)
        check_number("max_replicas", self.max_replicas, 1, whole=True)
        for name in ("target_queue_s", "metrics_interval_s"):
            check_number(name, getattr(self, name), 1e-3)
        for name in ("upscale_delay_s", "downscale_delay_s"):
            check_number(name, getattr(self, name), 0)
        if self.max_replicas < self.min_replicas:
            raise InvalidRequestError(
                f"max_replicas is {self.max_replicas}, min_replicas {self.min_replicas}; expected it to be no less",
                "max_replicas",
            )

    def config(self) -> dict[str, object]:
        """As Serve's deployments take it."""
        policy = {
            "policy_function": "interlace.ray.serving.scaling:QueueSeconds",
            "policy_kwargs": {"target_queue_s": self.target_queue_s},
        }
        return {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "upscale_delay_s": self.upscale_delay_s,
            "downscale_delay_s": self.downscale_delay_s,
            "metrics_interval_s": self.metrics_interval_s,
            "look_back_period_s": 2 * self.metrics_interval_s,
            "policy": policy,
        }


class QueueSeconds:
    """A policy of Serve's autoscaler: so many replicas that their work is done in `target_queue_s`."""

    def __init__(self, target_queue_s: float) -> None:
        self._target_s = target_queue_s

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """`context` is Serve's `AutoscalingContext`; bounds and delays are Serve's own."""
        told = (context.aggregated_metrics or {}).get("queue_s", {})
        waiting = float(context.total_queued_requests or 0)
        running = max(float(context.total_num_requests or 0) - waiting, 0.0)
        return replicas_for(list(told.values()), running, waiting, self._target_s), {}


def replicas_for(queue_s: Sequence[float], num_running: float, num_waiting: float, target_s: float) -> int:
    """`queue_s` are the replicas' own seconds; requests that wait for a place count as much as those that have one."""
    total = sum(queue_s)
    if num_running:
        total += num_waiting * total / num_running
    return max(ceil(total / target_s), 1)


class Backlog:
    """What one replica has to do, and how quick it is."""

    def __init__(self) -> None:
        self._left: dict[str, float] = {}  # the work of each request
        self._all: dict[str, float] = {}
        self._speed = Speed()

    def began(self, request_id: str, amount: float, now: float) -> None:
        """It is to be done here; `now` is of `time.monotonic`."""
        self._left[request_id] = self._all[request_id] = amount
        self._speed.busy(now)

    def progressed(self, progress: Progress, now: float) -> None:
        """So many of its steps are done."""
        request_id = progress.request_id
        if not progress.num_steps or request_id not in self._left:
            return
        left = self._all[request_id] * max(1 - progress.step / progress.num_steps, 0.0)
        if left < self._left[request_id]:
            self._speed.done(self._left[request_id] - left, now)
            self._left[request_id] = left

    def ended(self, request_id: str, now: float, *, ok: bool) -> None:
        """It is done with."""
        left = self._left.pop(request_id, 0.0)
        self._all.pop(request_id, None)
        if ok:
            self._speed.done(left, now)
        if not self._left:
            self._speed.idle(now)

    def __len__(self) -> int:
        return len(self._left)

    @property
    def seconds(self) -> float:
        """Until all is done; 0 before anything was measured."""
        speed = self._speed.value
        return sum(list(self._left.values())) / speed if speed else 0.0
