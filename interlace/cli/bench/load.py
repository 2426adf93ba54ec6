"""Benches that send many requests: through an engine, through stages, to a server. Measured in `interlace.bench`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from interlace.cli.flags import bench as flag
from interlace.cli.invocation import without_bars


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ThroughputFlags:
    """Of `bench throughput`."""

    model_name: flag.ModelName = "demo"
    workload: flag.Workload = "mixed"
    num_requests: flag.NumRequests = 16
    repeats: flag.Repeats = 3
    max_num_seqs: flag.MaxNumSeqs = 16
    seed: flag.Seed = 0
    torch_dtype: flag.DType = None
    device: flag.Device = None
    optimize: Literal["auto", "off"] = "auto"
    """auto: Interlace's model as t2i and serve load it; off: as stock's, to measure what sharing alone gains."""
    output: flag.Output = None


def throughput(*, flags: ThroughputFlags = ThroughputFlags()) -> None:
    """The same requests one by one, in static batches, in waves and through Interlace, in turn.

    A table on stderr; one JSON object last on stdout. Checks that outputs are equal to stock diffusers'.

    ```text
    interlace bench throughput
    interlace bench throughput --workload uniform --num-requests 32 --output result.json
    ```
    """
    from interlace.bench.load.throughput import throughput as measure

    without_bars()
    measure(**vars(flags))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LatencyFlags:
    """Of `bench latency`."""

    model_name: flag.ModelName = "demo"
    workload: flag.Workload = "mixed"
    num_requests: flag.NumRequests = 48
    loads: Annotated[tuple[float, ...], flag.Several] = (0.4, 0.6, 0.8, 1.0)
    """Arrival rates, as shares of what Interlace gets through when all requests are there from the start."""
    slo: flag.Slo = 3.0
    max_num_seqs: flag.MaxNumSeqs = 16
    policy: flag.Policy = "fifo"
    seed: flag.Seed = 0
    repeats: flag.Repeats = 1
    output: flag.Output = None
    plot: Path | None = None
    """A PNG of p95 latency by load."""


def latency(*, flags: LatencyFlags = LatencyFlags()) -> None:
    """Random (Poisson) arrivals: how long requests take through Interlace, in waves, and one by one.

    ```text
    interlace bench latency --num-requests 64 --loads 0.5 0.8 --plot latency.png
    ```
    """
    from interlace.bench.load.latency import latency as measure

    without_bars()
    measure(**vars(flags))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StagesFlags:
    """Of `bench stages`."""

    deploy_config: Path | None = None
    """The stages; by default demo-expand, then demo."""
    model: str | None = None
    """A directory or hub id of Qwen2.5-Omni or Qwen3-Omni."""
    num_requests: flag.NumRequests = 32
    num_inference_steps: flag.NumSteps = 8
    size: int = 64
    """Pixels a side."""
    repeats: flag.Repeats = 3
    output: flag.Output = None


def stages(*, flags: StagesFlags = StagesFlags()) -> None:
    """Requests that flow through a language model and a diffusion model, against one stage after the other.

    With --model an omni-modal model instead: requests with speech, against its own `generate` one by one. A table on
    stderr; one JSON object last on stdout. Checks that texts, pictures and sound are equal both ways.

    ```text
    interlace bench stages
    interlace bench stages --model Qwen/Qwen2.5-Omni-7B --num-requests 8
    interlace bench stages --deploy-config examples/draw_then_edit.yaml --num-requests 8
    ```
    """
    from interlace.bench.load.speech import speech
    from interlace.bench.load.stages import stages as measure

    without_bars()
    options = dict(vars(flags))
    model = options.pop("model")
    if model is not None:
        speech(model=model, num_requests=flags.num_requests, repeats=flags.repeats, output=flags.output)
        return
    measure(**options)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServingFlags:
    """Of `bench serving`."""

    url: str | None = None
    """The server's base URL, with /v1."""
    model_name: Annotated[str, Parameter(alias="--model")] = "demo"
    """The model that requests ask for; with --compare, that is served."""
    mix: Annotated[list[str], flag.Several] = field(default_factory=lambda: ["128x128/16:2", "96x96/12", "64x64/8"])
    """Sorts of requests: WxH/STEPS, with :WEIGHT."""
    rate: float | None = None
    """Requests a second on average; arrivals are random (Poisson). By default 1; with --compare 0.8 of what step mode
    gets through when all come at once."""
    burst: Annotated[bool, flag.Switch] = False
    """All requests at once."""
    num_requests: flag.NumRequests = 24
    slo: flag.Slo = 3.0
    seed: flag.Seed = 0
    api_key: str | None = None
    """The server's key."""
    timeout_s: float = 600.0
    """Seconds after which a request counts as failed."""
    compare: Annotated[bool, flag.Switch] = False
    """Start Interlace in step mode, in request mode and one by one, and load each in the same way."""
    repeats: flag.Repeats = 1
    output: flag.Output = None


def serving(*, flags: ServingFlags = ServingFlags()) -> None:
    """Load on a server that speaks OpenAI's Images API: throughput, latencies, and how many were quick enough.

    ```text
    interlace bench serving --url http://127.0.0.1:8000/v1 --rate 2 --num-requests 64
    interlace bench serving --compare --mix 128x128/16:2 64x64/8
    ```
    """
    from interlace.bench.load.serving import serving as measure

    measure(**vars(flags))
