"""`interlace bench quality`: what the lossy caches gain in seconds and cost in likeness to uncached pictures."""

import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench.machine import describe_model
from interlace.bench.pictures import Images, drawn
from interlace.bench.result import command_of, write_result
from interlace.bench.workloads import make_requests
from interlace.demo import MODELS
from interlace.engine.thread import Engine
from interlace.errors import InvalidRequestError
from interlace.models.loader import LoadedModel, load_model


@dataclass(frozen=True)
class Setting:
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
    repeats: int = 1,
    max_num_seqs: int = 16,
    seed: int = 0,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """The same requests without cache, with each cache at each threshold, and with guidance held, in one run.

    PSNR and SSIM are against the uncached picture; with the built-in model the checker's share of right pictures too.
    Prints a table on stderr and one JSON object on stdout. Raises `InvalidRequestError` where scikit-image is missing.
    """
    command = command_of("quality", locals())
    if num_requests < 1 or repeats < 1:
        raise InvalidRequestError(f"got {num_requests} requests, {repeats} repeats; expected at least 1 of each")
    model = load_model(model_name)
    model.pipeline.set_progress_bar_config(disable=True)
    settings = [Setting("none"), *(Setting(kind, value) for kind in cache_types for value in thresholds)]
    settings += [Setting("hold_guidance_after", share) for share in hold_guidance_after]
    seconds: dict[str, list[float]] = {setting.name: [] for setting in settings}
    images: dict[str, Images] = {}
    skipped: dict[str, int] = {}
    prompts: list[str] = []
    for _ in range(repeats):
        for setting in settings:
            requests = make_requests(model, "uniform", num_requests, seed)
            prompts = [kwargs["prompt"] for kwargs in requests]
            for kwargs in requests:
                kwargs["num_inference_steps"] = num_inference_steps
            taken, images[setting.name], skipped[setting.name] = _run(model, setting, requests, max_num_seqs)
            seconds[setting.name].append(taken)
    rows: list[dict[str, Any]] = []
    for setting in settings:
        own = seconds[setting.name]
        rows.append({
            **asdict(setting),
            "seconds": round(statistics.median(own), 3),
            "speedup": round(statistics.median(a / b for a, b in zip(seconds["none"], own, strict=True)), 3),
            "skipped": skipped[setting.name],
            **_likeness(images[setting.name], images["none"]),
            **_checked(model, images[setting.name], prompts),
        })  # fmt: skip
    result = {"command": command, "num_requests": num_requests, "num_inference_steps": num_inference_steps,
              "repeats": repeats, **describe_model(model), "settings": rows}  # fmt: skip
    _print_table(result)
    if plot is not None:
        _plot(rows, plot)
    write_result(result, output)


def _run(
    model: LoadedModel, setting: Setting, requests: list[dict[str, Any]], max_num_seqs: int
) -> tuple[float, Images, int]:
    with Engine(model.pipeline, max_num_seqs=max_num_seqs, **setting.options) as engine:
        start = perf_counter()
        images = drawn(engine, requests)
        taken = perf_counter() - start
        stats = engine.stats()
    return taken, images, stats["skipped"] + stats["guidance_held"]


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


def _checked(model: LoadedModel, images: Images, prompts: list[str]) -> dict[str, float]:
    """With the built-in model: the share of pictures that show what the prompt says."""
    if model.name not in MODELS:
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
