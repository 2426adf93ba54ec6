"""`interlace bench quality`: what the lossy caches gain in seconds and cost in likeness to uncached pictures."""

import statistics
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench import sides
from interlace.bench.load.pictures import Images, drawn
from interlace.bench.load.workloads import make_requests
from interlace.bench.machine import describe_model
from interlace.bench.result import command_of, write_result
from interlace.demo import MODELS
from interlace.engine.engine import Engine
from interlace.errors import InvalidRequestError
from interlace.models.loader import load_model
from interlace.models.optimize import AUTO


@dataclass(frozen=True)
class QualitySetting:
    """One way to run the requests."""

    cache_type: str  # or "hold_guidance_after", whose threshold is a share of the steps
    threshold: float | None = None

    @property
    def name(self) -> str:
        """As in tables."""
        return self.cache_type if self.threshold is None else f"{self.cache_type} {self.threshold:g}"

    @property
    def options(self) -> dict[str, Any]:
        """The engine's."""
        if self.cache_type == "hold_guidance_after":
            return {"hold_guidance_after": self.threshold}
        return {"cache_type": self.cache_type, "cache_threshold": self.threshold}


def quality(
    *,
    model_name: str = "demo",
    num_requests: int = 32,
    num_inference_steps: int = 28,
    thresholds: tuple[float, ...] = (0.05, 0.1, 0.2),
    cache_types: tuple[str, ...] = ("step_cache", "first_block_cache"),
    hold_guidance_after: tuple[float, ...] = (),
    repeats: int = 3,
    max_num_seqs: int = 16,
    seed: int = 0,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """The same requests without cache, with each cache at each threshold, and with guidance held.

    Each setting has a process of its own, asked in turn.
    PSNR and SSIM are against the uncached picture; with the built-in model the checker's share of right pictures too.
    Prints a table on stderr and one JSON object on stdout. Raises `InvalidRequestError` where scikit-image is missing.
    """
    command = command_of("quality", locals())
    if num_requests < 1 or repeats < 1:
        raise InvalidRequestError(f"got {num_requests} requests, {repeats} repeats; expected at least 1 of each")
    settings = [QualitySetting("none"), *(QualitySetting(kind, value) for kind in cache_types for value in thresholds)]
    settings += [QualitySetting("hold_guidance_after", share) for share in hold_guidance_after]
    draw = QualityDrawing(model_name, num_requests, num_inference_steps, max_num_seqs, seed)
    with sides.opened({setting.name: partial(QualitySide, setting, draw) for setting in settings}) as ways:
        turns: dict[str, list[QualityTurn]] = sides.in_turn(ways, repeats)
    seconds = {name: [turn.seconds for turn in told] for name, told in turns.items()}
    last = {name: told[-1] for name, told in turns.items()}
    rows: list[dict[str, Any]] = []
    for setting in settings:
        images = last[setting.name].images
        rows.append({
            **asdict(setting),
            "seconds": round(statistics.median(seconds[setting.name]), 3),
            "speedup": sides.paired_ratio(seconds["none"], seconds[setting.name]),
            "skipped": last[setting.name].skipped,
            **_likeness(images, last["none"].images),
            **_checked(model_name, images, last["none"].prompts),
        })  # fmt: skip
    result = {"command": command, "num_requests": num_requests, "num_inference_steps": num_inference_steps,
              "repeats": repeats, **last["none"].facts, "settings": rows}  # fmt: skip
    _print_table(result)
    if plot is not None:
        _plot(rows, plot)
    write_result(result, output)


@dataclass(frozen=True)
class QualityDrawing:
    """What every setting is asked to draw."""

    model_name: str
    num_requests: int
    num_inference_steps: int
    max_num_seqs: int
    seed: int


@dataclass(frozen=True)
class QualityTurn:
    """The requests once, and how many calls of the denoiser were skipped."""

    seconds: float
    images: Images
    skipped: int
    prompts: list[str]
    facts: dict[str, Any]


class QualitySide:
    """One setting with a model of its own, warm; each call draws all requests."""

    def __init__(self, setting: QualitySetting, drawing: QualityDrawing) -> None:
        self._setting, self._drawing = setting, drawing
        self._model = load_model(drawing.model_name, optimizations=AUTO)  # as t2i and serve load it
        self._model.pipeline.set_progress_bar_config(disable=True)
        self._draw(3)

    def __call__(self) -> QualityTurn:
        return self._draw(self._drawing.num_inference_steps)

    def _draw(self, num_steps: int) -> QualityTurn:
        drawing = self._drawing
        requests = make_requests(self._model, "uniform", drawing.num_requests, drawing.seed)
        requests = [{**kwargs, "num_inference_steps": num_steps} for kwargs in requests]
        with Engine(self._model.pipeline, max_num_seqs=drawing.max_num_seqs, **self._setting.options) as engine:
            start = perf_counter()
            images = drawn(engine, requests)
            taken, counts = perf_counter() - start, engine.statistics()
        skipped = counts.skipped + counts.guidance_held
        return QualityTurn(
            taken, images, skipped, [kwargs["prompt"] for kwargs in requests], describe_model(self._model)
        )


def _likeness(images: Images, expected: Images) -> dict[str, float | None]:
    """Mean SSIM, and PSNR in dB; None where nothing differs."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise InvalidRequestError("quality needs scikit-image; pip install 'interlace[bench]'") from error
    pairs = list(zip(images, expected, strict=True))
    squared = statistics.mean(float(np.square(a - b).mean()) for a, b in pairs)
    ssim = statistics.mean(float(structural_similarity(a, b, channel_axis=-1, data_range=1.0)) for a, b in pairs)
    return {"psnr_db": None if squared == 0 else round(-10 * float(np.log10(squared)), 2), "ssim": round(ssim, 4)}


def _checked(model_name: str, images: Images, prompts: list[str]) -> dict[str, float]:
    """With the built-in model: the share of pictures that show what the prompt says."""
    if model_name not in MODELS:
        return {}
    from PIL import Image

    from interlace.demo.check import score

    pictures = [Image.fromarray((image * 255).round().astype(np.uint8)) for image in images]
    right = [score(picture, prompt).right for picture, prompt in zip(pictures, prompts, strict=True)]
    return {"right": round(sum(right) / len(right), 4)}


def _print_table(result: dict[str, Any]) -> None:
    title = f"{result['num_requests']} requests of {result['num_inference_steps']} steps, {result['model']}"
    table = Table("cache", "threshold", "seconds", "faster", "PSNR dB", "SSIM", "right", title=title)
    for row in result["settings"]:
        psnr = "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        right = f"{row['right']:.1%}" if "right" in row else ""
        threshold = "" if row["threshold"] is None else f"{row['threshold']:g}"
        seconds, faster = f"{row['seconds']:.1f}", f"{row['speedup']:.2f}x"
        table.add_row(row["cache_type"], threshold, seconds, faster, psnr, f"{row['ssim']:.4f}", right)
    Console(file=sys.stderr).print(table)


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    from interlace.bench.plots import lines

    kinds = dict.fromkeys(row["cache_type"] for row in rows if row["cache_type"] != "none")
    series = {
        kind: [(row["speedup"], row["ssim"]) for row in rows if row["cache_type"] in (kind, "none")] for kind in kinds
    }
    lines(path, series, "times as fast as without a cache", "SSIM to the picture without a cache")
