"""The loop of trainings that go on from a checkpoint: a schedule, steps, averaged weights, a log."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.common import Average, Bar, Budget, learning_rate, load_checkpoint, save_checkpoint


class Run:
    """One training in `folder`, begun or gone on with: `steps()` says how far it is, `learn()` makes a step.

    `folder` gets log.jsonl and checkpoint.pt: weights, the optimizer, averaged weights where there is an `average`,
    and `kept`, what else is needed to go on or to export.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        num_steps: int,
        minutes: float | None,
        average: Average | None = None,
        resume_at: float | None = None,
        every: int = 100,
    ) -> None:
        """After `every` steps it reports and saves; `resume_at`: how far a checkpoint's schedule is taken to be."""
        folder.mkdir(parents=True, exist_ok=True)
        self.average, self.kept, self.step = average, dict[str, Any](), 0
        self._model, self._optimizer, self._folder, self._every = model, optimizer, folder, every
        self._progress, self._total, self._start = 0.0, 0.0, time.monotonic()
        if state := load_checkpoint(folder / "checkpoint.pt"):
            model.load_state_dict(state.pop("model"))
            optimizer.load_state_dict(state.pop("optimizer"))
            if average:
                average.values = state.pop("average")
            self.step, self._progress = state.pop("step"), state.pop("progress")
            self.kept = state
        done = self._progress if resume_at is None else resume_at
        self._budget, self.bar = Budget(num_steps, minutes, done=done), Bar(folder / "log.jsonl")

    def steps(self, peak: float) -> Iterator[float]:
        """How far the training is, 0 to 1, before each step of it; learning rates are set. Saves at the end."""
        while (progress := self._budget.progress(self.step)) < 1:
            self._progress = progress
            self.bar.update(progress)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(progress, peak) * group.get("times", 1.0)
            yield progress
        self._progress = 1.0
        self._save()

    def learn(self, loss: torch.Tensor, measure: Callable[[], dict[str, float]] = dict) -> None:
        """One step down the loss; what `measure` returns is reported beside it, where a report is due."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self.step, self._total = self.step + 1, self._total + loss.item()
        if self.average:
            self.average.update(self._model, self.step)
        if self.step % self._every == 0:
            told = {"step": self.step, "progress": self._progress, "loss": self._total / self._every, **measure()}
            self.bar.report(**told, seconds=time.monotonic() - self._start)
            self._total = 0.0
            self._save()

    def _save(self) -> None:
        averaged = {"average": self.average.values} if self.average else {}
        save_checkpoint(
            self._folder / "checkpoint.pt", model=self._model.state_dict(), optimizer=self._optimizer.state_dict(),
            step=self.step, progress=self._progress, **averaged, **self.kept,
        )  # fmt: skip
