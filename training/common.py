"""What every training shares: a schedule that ends on time, averaged weights, checkpoints that resume, a log."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm


class Budget:
    """How far a training is, from 0 to 1: by steps, or by minutes of wall-clock time where those are given."""

    def __init__(self, num_steps: int, minutes: float | None, *, done: float = 0.0) -> None:
        self._num_steps, self._seconds = num_steps, None if minutes is None else minutes * 60
        self._start, self._done = time.monotonic(), done

    def progress(self, step: int) -> float:
        """The share of the training that is behind us; 1 ends it."""
        if self._seconds is None:
            return step / self._num_steps
        return self._done + (1 - self._done) * (time.monotonic() - self._start) / self._seconds


def learning_rate(progress: float, peak: float, *, warmup: float = 0.02, floor: float = 0.01) -> float:
    """Linear warm-up, then cosine down to `floor` times the peak."""
    if progress < warmup:
        return peak * max(progress / warmup, 0.02)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0))))


def falling(progress: float, first: float, last: float) -> float:
    """1 until `first`, then linearly down to 0 at `last`."""
    return min(max((last - progress) / (last - first), 0.0), 1.0)


class Average:
    """Exponential moving average of a module's parameters; the horizon grows with the number of steps."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        """Take in the parameters after `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            self.values[name].lerp_(parameter, 1 - decay)

    def copy_to(self, module: torch.nn.Module) -> None:
        """Put the averages in place of a module's parameters."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.values[name])


def size_of(text: str) -> tuple[int, int]:
    """Width and height of "160x112"."""
    width, by, height = text.partition("x")
    if not (by and width.isdigit() and height.isdigit() and int(width) % 16 == int(height) % 16 == 0):
        raise ValueError(f"{text!r} is no size: give WIDTHxHEIGHT in multiples of 16, as 160x112")
    return int(width), int(height)


def save_checkpoint(path: Path, **state: Any) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint, or None where there is none."""
    return torch.load(path, weights_only=False) if path.exists() else None


class Bar:
    """A progress bar on a terminal, and a JSON line a report in `path` (on stdout too where that is no terminal)."""

    def __init__(self, path: Path) -> None:
        self._path, self._bar = path, tqdm(total=100.0, unit="%", disable=None, bar_format=_BAR_FORMAT)

    def update(self, progress: float) -> None:
        """`progress` is the share of the training that is done, 0 to 1."""
        self._bar.n = min(100 * progress, 100.0)
        self._bar.refresh()

    def report(self, **values: Any) -> None:
        """Figures of the last steps."""
        if self._bar.disable:
            log_line(self._path, **values)
            return
        self._bar.set_postfix({name: values[name] for name in ("step", "loss", "psnr") if name in values})
        log_line(self._path, echo=False, **values)


_BAR_FORMAT = "{percentage:5.1f}% |{bar}| {elapsed} < {remaining}{postfix}"


def log_line(path: Path, *, echo: bool = True, **values: Any) -> None:
    """One JSON line a report, on stdout too."""
    line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    if echo:
        print(line, flush=True)
