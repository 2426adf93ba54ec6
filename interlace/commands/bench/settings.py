"""Benches that set the model under other settings beside the model without them. Measured in `interlace.bench`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.commands.quiet import without_bars


def quality(
    *,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    num_requests: int = 32,
    num_inference_steps: int = 28,
    thresholds: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative=())] = (0.05, 0.1, 0.2),
    cache_types: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (
        "step_cache",
        "first_block_cache",
    ),
    hold_guidance_after: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative=())] = (),
    repeats: int = 1,
    max_num_seqs: int = 16,
    seed: int = 0,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """What the lossy caches gain and cost: seconds beside PSNR, SSIM and, with the built-in model, right pictures.

    ```text
    interlace bench quality --thresholds 0.05 0.1 0.2 --plot quality.png
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id, or "demo".
    num_requests
        Pictures for each setting.
    num_inference_steps
        Denoising steps.
    thresholds
        Of every cache.
    cache_types
        step_cache, first_block_cache.
    hold_guidance_after
        Shares of the steps, each a setting of its own.
    repeats
        How often each setting is measured; medians are reported.
    max_num_seqs
        Requests in flight at once.
    seed
        Of prompts and pictures.
    output
        A file for the JSON object as well.
    plot
        A PNG of likeness by speed.
    """
    from interlace.bench.quality import quality as measure

    without_bars()
    measure(model_name=model_name, num_requests=num_requests, num_inference_steps=num_inference_steps,
            thresholds=thresholds, cache_types=cache_types, hold_guidance_after=hold_guidance_after, repeats=repeats,
            max_num_seqs=max_num_seqs, seed=seed, output=output, plot=plot)  # fmt: skip


def speed(
    *,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    optimize: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (
        "compile",
        "channels_last",
        "fuse_qkv",
    ),
    attention_backends: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    dtypes: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = ("bfloat16",),
    engine_options: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    workload: str = "uniform",
    num_requests: int = 4,
    num_inference_steps: int = 8,
    repeats: int = 5,
    seed: int = 0,
) -> None:
    """What makes forwards faster by name (--enable-compile, packing, ...), each beside the model without it.

    ```text
    interlace bench speed --optimize compile channels_last --dtypes bfloat16
    interlace bench speed --workload close --optimize --dtypes --engine-options packing alone
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id, or "demo".
    optimize
        Names that --optimize takes.
    attention_backends
        Names that --attention-backend takes.
    dtypes
        Names that --dtype takes.
    engine_options
        packing (sizes within a tenth of each other share), batch_invariant, auto (rows that pay), alone (one row).
    workload
        One of those of `bench throughput`, with one number of steps for all.
    num_requests
        Pictures a run, all at once.
    num_inference_steps
        Denoising steps.
    repeats
        How often each setting is measured, in turns, after a first run; medians are reported.
    seed
        Of prompts and pictures.
    """
    from interlace.bench.speed import speed as measure

    without_bars()
    measure(model_name=model_name, optimize=optimize, attention_backends=attention_backends, dtypes=dtypes,
            engine_options=engine_options, workload=workload, num_requests=num_requests,
            num_inference_steps=num_inference_steps, repeats=repeats, seed=seed)  # fmt: skip
