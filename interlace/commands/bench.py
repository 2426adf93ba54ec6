"""`interlace bench`: both sides in one run, a table on stderr, one JSON object last on stdout."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from interlace.commands.quiet import without_bars
from interlace.errors import InvalidRequestError

bench = App(name="bench", help="Measure what sharing forwards gains on this machine.")


@bench.command
def throughput(
    *,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    workload: str = "mixed",
    num_requests: int = 16,
    repeats: int = 1,
    max_num_seqs: int = 16,
    seed: int = 0,
    torch_dtype: str | None = None,
    device: str | None = None,
    output: Path | None = None,
) -> None:
    """The same requests one by one, in static batches, in waves and through Interlace, in one run.

    A table on stderr; one JSON object last on stdout. Checks that outputs are equal to stock diffusers'.

    ```text
    interlace bench throughput
    interlace bench throughput --workload uniform --num-requests 32 --output result.json
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id, or "demo".
    workload
        uniform (equal requests), mixed (steps 8 to 30, guidance 1 to 7, three sizes), small (half to full size),
        turbo (4 steps), long (50 steps), edit (pictures and instructions; with --model-name demo: demo-edit),
        close (five sizes within a tenth of each other), dataset-c (the mix of vLLM-Omni's serving benchmark, scaled to
        the model's size).
    num_requests
        How many requests each way gets.
    repeats
        How often each way is measured; medians are reported.
    max_num_seqs
        Requests in flight at once.
    seed
        Of the workload.
    torch_dtype
        float32, bfloat16 or float16.
    device
        cuda, cpu, ...
    output
        A file for the JSON object as well.
    """
    from interlace.bench.throughput import throughput as measure

    without_bars()
    measure(
        model_name=model_name,
        workload=workload,
        num_requests=num_requests,
        repeats=repeats,
        max_num_seqs=max_num_seqs,
        seed=seed,
        torch_dtype=torch_dtype,
        device=device,
        output=output,
    )


@bench.command
def latency(
    *,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    workload: str = "mixed",
    num_requests: int = 48,
    loads: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative=())] = (0.4, 0.6, 0.8, 1.0),
    slo: float = 3.0,
    max_num_seqs: int = 16,
    policy: str = "fifo",
    seed: int = 0,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Random (Poisson) arrivals: how long requests take through Interlace, in waves, and one by one.

    ```text
    interlace bench latency --num-requests 64 --loads 0.5 0.8 --plot latency.png
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id, or "demo".
    workload
        As for `throughput`.
    num_requests
        Arrivals at each load.
    loads
        Arrival rates, as shares of what Interlace gets through when all requests are there from the start.
    slo
        The latency that a request may have, as a multiple of its own time alone.
    max_num_seqs
        Requests in flight at once.
    policy
        fifo, sjf or deadline.
    seed
        Of workload and arrivals.
    output
        A file for the JSON object as well.
    plot
        A PNG of p95 latency by load.
    """
    from interlace.bench.latency import latency as measure

    without_bars()
    measure(model_name=model_name, workload=workload, num_requests=num_requests, loads=loads, slo=slo,
            max_num_seqs=max_num_seqs, policy=policy, seed=seed, output=output, plot=plot)  # fmt: skip


@bench.command(name="batch-curve")
def batch_curve(
    *,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    sizes: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative=())] = (),
    max_rows: int = 16,
    repeats: int = 5,
    output: Path | None = None,
    plot: Path | None = None,
) -> None:
    """What a forward of every module costs by its number of rows, beside a large matrix product on this device.

    ```text
    interlace bench batch-curve --sizes 64 128 --plot curve.png
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id, or "demo".
    sizes
        Pixels a side; the model's default size where left out.
    max_rows
        Up to how many rows.
    repeats
        Runs of each; the fastest counts.
    output
        A file for the JSON object as well.
    plot
        A PNG of the gain by rows.
    """
    from interlace.bench.batch_curve import batch_curve as measure

    without_bars()
    measure(model_name=model_name, sizes=sizes, max_rows=max_rows, repeats=repeats, output=output, plot=plot)


@bench.command
def profile(
    *,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    sizes: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative=())] = (),
    max_rows: int = 16,
) -> None:
    """Measure what forwards cost and keep it, so that the engine needn't find out while it works.

    ```text
    interlace bench profile --model-name demo --sizes 64 96 128
    ```

    Parameters
    ----------
    model_name
        A directory, a hub id, or "demo".
    sizes
        Pixels a side; the model's default size where left out.
    max_rows
        Up to how many rows.
    """
    from interlace.bench.batch_curve import batch_curve as measure

    without_bars()
    measure(model_name=model_name, sizes=sizes, max_rows=max_rows, save=True)


@bench.command
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


@bench.command
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


@bench.command
def stages(
    *,
    deploy_config: Path | None = None,
    num_requests: int = 32,
    num_inference_steps: int = 8,
    size: int = 64,
    repeats: int = 3,
    output: Path | None = None,
) -> None:
    """Requests that flow through a language model and a diffusion model, against one stage after the other.

    A table on stderr; one JSON object last on stdout. Checks that texts and pictures are equal both ways.

    ```text
    interlace bench stages
    interlace bench stages --deploy-config examples/draw_then_edit.yaml --num-requests 8
    ```

    Parameters
    ----------
    deploy_config
        The stages; by default demo-expand, then demo.
    num_requests
        How many requests each way gets.
    num_inference_steps
        Of the diffusion stages.
    size
        Pixels a side.
    repeats
        How often each way is measured; medians are reported.
    output
        A file for the JSON object as well.
    """
    from interlace.bench.stages import stages as measure

    without_bars()
    measure(
        deploy_config=deploy_config,
        num_requests=num_requests,
        num_inference_steps=num_inference_steps,
        size=size,
        repeats=repeats,
        output=output,
    )


@bench.command
def serving(
    *,
    url: str | None = None,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    mix: Annotated[list[str], Parameter(consume_multiple=True, negative=())] = ["128x128/16:2", "96x96/12", "64x64/8"],  # noqa: B006
    rate: float = 1.0,
    burst: Annotated[bool, Parameter(negative=())] = False,
    num_requests: int = 24,
    slo: float = 3.0,
    seed: int = 0,
    api_key: str | None = None,
    timeout_s: float = 600.0,
    compare: Annotated[bool, Parameter(negative=())] = False,
    output: Path | None = None,
) -> None:
    """Load on a server that speaks OpenAI's Images API: throughput, latencies, and how many were quick enough.

    ```text
    interlace bench serving --url http://127.0.0.1:8000/v1 --rate 2 --num-requests 64
    interlace bench serving --compare --mix 128x128/16:2 64x64/8
    ```

    Parameters
    ----------
    url
        The server's base URL, with /v1.
    model_name
        The model that requests ask for; with --compare, that is served.
    mix
        Sorts of requests: WxH/STEPS, with :WEIGHT.
    rate
        Requests a second on average; arrivals are random (Poisson).
    burst
        All requests at once.
    num_requests
        How many.
    slo
        The latency that a request may have, as a multiple of its kind's time alone.
    seed
        Of arrivals and mix.
    api_key
        The server's key.
    timeout_s
        Seconds after which a request counts as failed.
    compare
        Start Interlace in step mode, in request mode and one by one, and load each in the same way.
    output
        A file for the JSON object as well.
    """
    from interlace.bench.serving import serving as measure

    measure(url=url, model_name=model_name, mix=mix, rate=rate, burst=burst, num_requests=num_requests, slo=slo,
            seed=seed, api_key=api_key, timeout_s=timeout_s, compare=compare, output=output)  # fmt: skip


@bench.command
def simulate(
    *,
    curves: Path | None = None,
    profile: str | None = None,
    rate: float | None = None,
    num_requests: int | None = None,
    steps: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative=())] = (28,),
    calls_per_step: int = 1,
    slo: float = 3.0,
    attainment: float = 0.9,
    policy: Literal["fifo", "sjf", "deadline"] = "fifo",
    max_num_seqs: int = 16,
    check: Annotated[bool, Parameter(negative=())] = False,
    model_name: Annotated[str, Parameter(alias="--model")] = "demo",
    workload: str = "mixed",
    load: float = 0.7,
    clock: Literal["wall", "cpu"] = "wall",
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Plan with the engine's own scheduler: latencies at a rate, what one replica serves, how many a load needs.

    ```text
    interlace bench batch-curve --sizes 64 128 --output curves.json
    interlace bench simulate --curves curves.json --rate 5 --steps 16 --calls-per-step 2
    interlace bench simulate --profile flux.1-dev-h100 --rate 50 --steps 28
    interlace bench simulate --check --workload small --clock cpu
    ```

    With --check a model is measured, run under random arrivals, and compared with what the simulator says of the same.

    Parameters
    ----------
    curves
        What forwards cost: a file of `batch-curve --output`.
    profile
        In its place what others published of one H100 at 1024x1024: flux.1-dev-h100, sd3.5-large-h100, sdxl-h100;
        with -compiled (SDXL: -tensorrt) the faster ones.
    rate
        Requests a second, at random (Poisson).
    num_requests
        How many are simulated (10,000), or run with --check (32).
    steps
        Denoising steps; with several, each request has one of them at random.
    calls_per_step
        Denoiser calls a step: 2 under classifier-free guidance.
    slo
        The latency that a request may have, as a multiple of its time alone.
    attainment
        The share of requests that must be within it.
    policy
        fifo, sjf or deadline.
    max_num_seqs
        Requests in flight at once on a replica.
    check
        Run it, too.
    model_name
        With --check: a directory, a hub id, or "demo".
    workload
        With --check: as for `throughput`.
    load
        With --check: the rate, as a share of what a full queue would get through.
    clock
        With --check: wall, or cpu, in which only this process's own time counts, on one thread.
    seed
        Of the arrivals.
    output
        A file for the JSON object as well.
    """
    from interlace.bench.simulate import simulate as run

    if check:
        from interlace.bench.check import check as compare

        without_bars()
        compare(model_name=model_name, workload=workload, num_requests=num_requests or 32, load=load, policy=policy,
                max_num_seqs=max_num_seqs, seed=seed, clock=clock, output=output)  # fmt: skip
        return
    if rate is None:
        raise InvalidRequestError("rate is missing; expected requests a second", "rate")
    run(curves=curves, profile=profile, rate=rate, num_requests=num_requests or 10_000, steps=steps,
        calls_per_step=calls_per_step, slo=slo,
        attainment=attainment, policy=policy, max_num_seqs=max_num_seqs, seed=seed, output=output)  # fmt: skip
