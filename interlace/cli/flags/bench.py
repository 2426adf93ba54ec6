"""Flags that several benches share, each described once; a bench says what it takes where it is left out."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Several = Parameter(consume_multiple=True, negative=())
Switch = Parameter(negative=())

ModelName = Annotated[str, Parameter(alias="--model", help='A directory, a hub id, or "demo".')]
DType = Annotated[str | None, Parameter(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, Parameter(help="cuda, cpu, ...")]
Workload = Annotated[
    str,
    Parameter(
        help="uniform (equal requests), mixed (steps 8 to 30, guidance 1 to 7, three sizes), small (half to full "
        "size), turbo (4 steps), long (50 steps), edit (pictures and instructions; with --model-name demo: demo-edit), "
        "close (five sizes within a tenth of each other), lora (over four adapters: mixed in one forward, kept apart, "
        "and stock one by one with set_adapters), dataset-c (the mix of vLLM-Omni's serving benchmark, scaled "
        "to the model's size)."
    ),
]
NumRequests = Annotated[int, Parameter(help="How many requests each way or setting gets.")]
NumSteps = Annotated[int, Parameter(help="Denoising steps.")]
MaxNumSeqs = Annotated[int, Parameter(help="Requests in flight at once.")]
MaxRows = Annotated[int, Parameter(help="Up to how many rows.")]
Sizes = Annotated[tuple[int, ...], Several, Parameter(help="Pixels a side; the model's default size where left out.")]
Slo = Annotated[float, Parameter(help="The latency that a request may have, as a multiple of its kind's time alone.")]
Policy = Annotated[str, Parameter(help="fifo, sjf or deadline.")]
Seed = Annotated[int, Parameter(help="Of everything that is random: workload, arrivals, prompts, pictures.")]
Repeats = Annotated[int, Parameter(help="How often each way is measured, in turn; medians are reported.")]
Output = Annotated[Path | None, Parameter(help="A file for the JSON object as well.")]
