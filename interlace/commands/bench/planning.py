"""Benches to plan with: what forwards cost, and what that means for a load. Measured in `interlace.bench`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from interlace.commands.quiet import without_bars
from interlace.errors import InvalidRequestError


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
