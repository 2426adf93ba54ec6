"""`interlace bench stages`: requests that flow from stage to stage, against one stage after the other, in turn."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench import sides
from interlace.bench.machine import describe_model
from interlace.bench.result import command_of, write_result
from interlace.errors import InvalidRequestError
from interlace.omni import Omni
from interlace.request import Output
from interlace.stages.config import OmniStageConfig, create_ar_stage_config, create_dit_stage_config
from interlace.stages.deploy import load_deploy_config
from interlace.stages.flow.flow import Flow
from interlace.stages.parse import parse, requests_for

_IDEAS = ("a star", "something round and red", "two circles", "a blue square", "a heart", "a ring on black", "a moon",
          "a yellow thing")  # fmt: skip


@dataclass(frozen=True)
class _WayRun:
    """One way once. Seconds from the first submission: to the end, to the first output, to the median output."""

    total: float
    first: float
    median: float
    outputs: list[Output]


def stages(
    *,
    num_requests: int = 32,
    num_inference_steps: int = 8,
    size: int = 64,
    repeats: int = 3,
    deploy_config: Path | None = None,
    output: Path | None = None,
) -> None:
    """Both ways, each over stages of its own; a table on stderr, one JSON object last on stdout."""
    command = command_of("stages", locals())
    for name, value in (("num_requests", num_requests), ("repeats", repeats)):
        if value < 1:
            raise InvalidRequestError(f"{name} is {value}; expected at least 1", name)
    configs = load_deploy_config(deploy_config) if deploy_config else _demo()
    fields = {"num_inference_steps": num_inference_steps, "height": size, "width": size}
    result = measure(configs, _requests(num_requests, fields), repeats)
    _print_table(result)
    asked = {"num_inference_steps": num_inference_steps, "size": size}
    write_result({"command": command, **result, **asked}, output)


class StagesWay:
    """One way through stages of its own, open and warm; each call runs all requests."""

    def __init__(self, name: str, configs: Sequence[OmniStageConfig], requests: list[dict[str, object]]) -> None:
        self._run = {"pipelined": _pipelined, "stage_by_stage": _stage_by_stage}[name]
        self._omni, self._requests = Omni(stages=tuple(configs)), requests
        self()  # learns and verifies, so that the measured runs are the steady state

    def __call__(self, facts: bool = False) -> object:
        """A `_WayRun`, or what the machine and the model are."""
        return describe_model(self._omni.model) if facts else self._run(self._omni, self._requests)

    def close(self) -> None:
        self._omni.close()


def measure(configs: Sequence[OmniStageConfig], requests: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    """Medians over `repeats`, in turn, each way in a process of its own, and how equal the outputs are."""
    names = ("pipelined", "stage_by_stage")
    with sides.opened({name: partial(StagesWay, name, configs, requests) for name in names}) as ways:
        machine = ways["pipelined"](True)
        runs: dict[str, list[_WayRun]] = sides.in_turn(ways, repeats)
    medians = {
        name: {what: round(statistics.median(getattr(run, what) for run in several), 3)
               for what in ("total", "first", "median")}
        for name, several in runs.items()
    }  # fmt: skip
    pairs = zip(runs["pipelined"][0].outputs, runs["stage_by_stage"][0].outputs, strict=True)
    equal = [(one.text == other.text, _difference(one, other)) for one, other in pairs]
    totals = {name: [run.total for run in several] for name, several in runs.items()}
    return {
        "bench": "stages",
        "stages": [config.model for config in configs],
        "num_requests": len(requests),
        "repeats": repeats,
        "seconds": medians,
        "ratio_total": sides.paired_ratio(totals["stage_by_stage"], totals["pipelined"]),
        "ratio_first": round(medians["stage_by_stage"]["first"] / medians["pipelined"]["first"], 3),
        "equal_texts": all(text for text, _ in equal),
        "max_pixel_difference": max(difference for _, difference in equal),
        **machine,
        "load": machine["load_average"],
    }


def _demo() -> tuple[OmniStageConfig, ...]:
    return (create_ar_stage_config(0, "demo-expand"), create_dit_stage_config(1, "demo"))


def _requests(count: int, fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"prompt": _IDEAS[i % len(_IDEAS)], "seed": i, "temperature": 0.9, **fields} for i in range(count)]


def _pipelined(omni: Omni, requests: list[dict[str, Any]]) -> _WayRun:
    start, ended = perf_counter(), []  # type: float, list[float]
    futures = [omni.submit(request) for request in requests]
    for future in futures:
        future.add_done_callback(lambda _: ended.append(perf_counter() - start))
    return _run_of([future.result() for future in futures], ended, perf_counter() - start)


def _stage_by_stage(omni: Omni, requests: list[dict[str, Any]]) -> _WayRun:
    """All requests through one stage, then all through the next; each stage batches as it likes."""
    start, ended = perf_counter(), []  # type: float, list[float]
    parsed = [parse(request, None, omni.configs, f"bench-{i}") for i, request in enumerate(requests)]
    flows = [Flow(request, requests_for(request, omni.configs)) for request in parsed]
    for index, link in enumerate(omni.pipeline.links):
        futures = [link.stage.submit(link.handed_over(flow) if index else flow.at[0]) for flow in flows]
        for future in futures if index == len(omni.pipeline.links) - 1 else ():
            future.add_done_callback(lambda _: ended.append(perf_counter() - start))
        for flow, future in zip(flows, futures, strict=True):
            flow.outputs.append(future.result())
    return _run_of([flow.output() for flow in flows], ended, perf_counter() - start)


def _run_of(outputs: Sequence[Output], ended: list[float], total: float) -> _WayRun:
    for output in outputs:
        if output.error is not None:
            raise output.error
    return _WayRun(total=total, first=min(ended), median=statistics.median(ended), outputs=list(outputs))


def _difference(one: Output, other: Output) -> int:
    """The largest of a pixel, of 255."""
    pairs = zip(one.images, other.images, strict=True)
    return max((int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs), default=0)


def _print_table(result: dict[str, Any]) -> None:
    title = f"{' -> '.join(result['stages'])}: {result['num_requests']} requests"
    table = Table("way", "all done", "first done", "half done", title=title)
    for name, seconds in result["seconds"].items():
        table.add_row(name.replace("_", " "), *(f"{seconds[what]:.2f} s" for what in ("total", "first", "median")))
    console = Console(file=sys.stderr)
    console.print(table)
    console.print(f"pipelined is {result['ratio_total']:.2f}x as fast; its first output is there "
                  f"{result['ratio_first']:.2f}x as soon")  # fmt: skip
