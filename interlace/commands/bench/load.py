"""Benches that send many requests: through an engine, through stages, to a server. Measured in `interlace.bench`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interlace.commands.quiet import without_bars


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
