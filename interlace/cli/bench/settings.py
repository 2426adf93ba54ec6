"""Benches that set the model under other settings beside the model without them. Measured in `interlace.bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.cli.flags import bench as flag
from interlace.cli.invocation import without_bars

Numbers = Annotated[tuple[float, ...], flag.Several]
Names = Annotated[tuple[str, ...], flag.Several]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class QualityFlags:
    """Of `bench quality`."""

    model_name: flag.ModelName = "demo"
    num_requests: flag.NumRequests = 32
    num_inference_steps: flag.NumSteps = 28
    thresholds: Numbers = (0.05, 0.1, 0.2)
    """Of every cache."""
    cache_types: Names = ("step_cache", "first_block_cache")
    """step_cache, first_block_cache."""
    hold_guidance_after: Numbers = ()
    """Shares of the steps, each a setting of its own."""
    repeats: flag.Repeats = 3
    max_num_seqs: flag.MaxNumSeqs = 16
    seed: flag.Seed = 0
    output: flag.Output = None
    plot: Path | None = None
    """A PNG of likeness by speed."""


def quality(*, flags: QualityFlags = QualityFlags()) -> None:
    """What the lossy caches gain and cost: seconds beside PSNR, SSIM and, with the built-in model, right pictures.

    ```text
    interlace bench quality --thresholds 0.05 0.1 0.2 --plot quality.png
    ```
    """
    from interlace.bench.settings.quality import quality as measure

    without_bars()
    measure(**vars(flags))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SpeedBenchFlags:
    """Of `bench speed`."""

    model_name: flag.ModelName = "demo"
    optimize: Names = ("compile", "channels_last", "fuse_qkv")
    """Names that --optimize takes."""
    attention_backends: Names = ()
    """Names that --attention-backend takes."""
    dtypes: Names = ("bfloat16",)
    """Names that --dtype takes."""
    engine_options: Names = ()
    """packing (sizes within a tenth of each other share), batch_invariant, auto (rows that pay), alone (one row)."""
    workload: flag.Workload = "uniform"
    num_requests: flag.NumRequests = 4
    num_inference_steps: flag.NumSteps = 8
    repeats: flag.Repeats = 5
    seed: flag.Seed = 0


def speed(*, flags: SpeedBenchFlags = SpeedBenchFlags()) -> None:
    """What makes forwards faster by name (--enable-compile, packing, ...), each beside the model without it.

    The workload has one number of steps for all.

    ```text
    interlace bench speed --optimize compile channels_last --dtypes bfloat16
    interlace bench speed --workload close --optimize --dtypes --engine-options packing alone
    ```
    """
    from interlace.bench.settings.speed import speed as measure

    without_bars()
    measure(**vars(flags))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GpuFlags:
    """Of `bench gpu`."""

    output_dir: Annotated[Path, Parameter(alias="-o")] = Path("gpu-check")
    """Where gpu-check.json and gpu-check.html are written, anew after every answer."""
    minutes: float = 9.0
    """After so many it ends; what was measured is kept, and the rest is named."""
    models: Names = ()
    """Some of flux.1-dev, sdxl, sd3.5-medium, qwen-image; by default all. The largest takes 41 GB."""
    parts: Names = ()
    """Some of exact, load, forwards, lora; by default all, what matters first."""
    tiny: Annotated[bool, flag.Switch] = False
    """Models of a few kilobytes, on any device: whether the check itself works. Its figures mean nothing."""
    device: flag.Device = None
    dtype: Annotated[str | None, Parameter(help="bfloat16 (the default on a GPU), float16 or float32.")] = None


def gpu(*, flags: GpuFlags = GpuFlags()) -> int:
    """Everything about one GPU in nine minutes: random weights in the shapes of four models, no network, no files.

    Is it exact (batched against alone)? How fast (mixed and uniform requests against stock one by one and in static
    batches; adapters; the step cache)? What does a forward cost (eager, CUDA graphs, compiled; TFLOP/s, memory)? How
    long does the device wait? One JSON object last on stdout, and a page to look at. Exit status 1 where a part failed.

    ```text
    interlace bench gpu
    interlace bench gpu --models sdxl --parts exact load --minutes 3 -o sdxl-check
    interlace bench gpu --tiny          # on any machine, in a few minutes: does the check itself work?
    ```
    """
    from interlace.bench.gpu.check import gpu as measure

    without_bars()
    return measure(**vars(flags))
