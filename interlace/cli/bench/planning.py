"""Benches to plan with: what forwards cost, and what that means for a load. Measured in `interlace.bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from interlace.cli.flags import bench as flag
from interlace.cli.invocation import without_bars
from interlace.errors import InvalidRequestError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ProfileFlags:
    """Of `bench profile`."""

    model_name: flag.ModelName = "demo"
    sizes: flag.Sizes = ()
    max_rows: flag.MaxRows = 16


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CurveFlags(ProfileFlags):
    """Of `bench batch-curve`."""

    repeats: int = 5
    """Runs of each; the fastest counts."""
    output: flag.Output = None
    plot: Path | None = None
    """A PNG of the gain by rows."""


def batch_curve(*, flags: CurveFlags = CurveFlags()) -> None:
    """What a forward of every module costs by its number of rows, beside a large matrix product on this device.

    ```text
    interlace bench batch-curve --sizes 64 128 --plot curve.png
    ```
    """
    from interlace.bench.planning.batch_curve import batch_curve as measure

    without_bars()
    measure(**vars(flags))


def profile(*, flags: ProfileFlags = ProfileFlags()) -> None:
    """Measure what forwards cost and keep it, so that the engine needn't find out while it works.

    ```text
    interlace bench profile --model-name demo --sizes 64 96 128
    ```
    """
    from interlace.bench.planning.batch_curve import batch_curve as measure

    without_bars()
    measure(**vars(flags), save=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SimulateFlags:
    """Of `bench simulate`: the load."""

    rate: float | None = None
    """Requests a second, at random (Poisson)."""
    num_requests: int | None = None
    """How many are simulated (10,000), or run with --check (32)."""
    slo: flag.Slo = 3.0
    attainment: float = 0.9
    """The share of requests that must be within it."""
    policy: Annotated[Literal["fifo", "sjf", "deadline"], Parameter(help="Which waiting requests go first.")] = "fifo"
    max_num_seqs: flag.MaxNumSeqs = 16
    seed: flag.Seed = 0
    output: flag.Output = None
    curves: Path | None = None
    """What forwards cost: a file of `batch-curve --output`."""
    profile: str | None = None
    """In its place what others published of one H100 at 1024x1024: flux.1-dev-h100, sd3.5-large-h100, sdxl-h100; with
    -compiled (SDXL: -tensorrt) the faster ones."""
    steps: Annotated[tuple[int, ...], flag.Several] = (28,)
    """Denoising steps; with several, each request has one of them at random."""
    calls_per_step: int = 1
    """Denoiser calls a step: 2 under classifier-free guidance."""


@Parameter(name="*", group=Group("With --check", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class CheckFlags:
    """Of `bench simulate --check`."""

    check: Annotated[bool, flag.Switch] = False
    """Measure a model, run it under random arrivals, and compare that with what the simulator says of the same."""
    model_name: flag.ModelName = "demo"
    workload: flag.Workload = "mixed"
    load: float = 0.7
    """The rate, as a share of what a full queue would get through."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall, or cpu, in which only this process's own time counts, on one thread."""


def simulate(*, flags: SimulateFlags = SimulateFlags(), real: CheckFlags = CheckFlags()) -> None:
    """Plan with the engine's own scheduler: latencies at a rate, what one replica serves, how many a load needs.

    ```text
    interlace bench batch-curve --sizes 64 128 --output curves.json
    interlace bench simulate --curves curves.json --rate 5 --steps 16 --calls-per-step 2
    interlace bench simulate --profile flux.1-dev-h100 --rate 2 --steps 28
    interlace bench simulate --check --workload small --clock cpu
    ```
    """
    from interlace.bench.planning.simulate import simulate as run

    if real.check:
        from interlace.bench.planning.check import check as compare

        without_bars()
        options = {name: value for name, value in vars(real).items() if name != "check"}
        compare(**options, num_requests=flags.num_requests or 32, policy=flags.policy,
                max_num_seqs=flags.max_num_seqs, seed=flags.seed, output=flags.output)  # fmt: skip
        return
    if flags.rate is None:
        raise InvalidRequestError("rate is missing; expected requests a second", "rate")
    run(**{**vars(flags), "rate": flags.rate, "num_requests": flags.num_requests or 10_000})
