"""`interlace bench`: both sides in one run, a table on stderr, one JSON object last on stdout."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from interlace.commands.quiet import without_bars

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
        uniform (equal requests) or mixed (steps 8 to 30, guidance 1 to 7, three sizes).
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
