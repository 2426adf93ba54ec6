"""`interlace bench stages`: requests that flow from stage to stage, against one stage after the other, in one run."""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from interlace.bench.machine import describe_model
from interlace.bench.result import command_of, write_result
from interlace.errors import InvalidRequestError
from interlace.request import Output
from interlace.stages.config import OmniStageConfig, create_ar_stage_config, create_dit_stage_config
from interlace.stages.deploy import load_deploy_config
from interlace.stages.handoff import Handover
from interlace.stages.omni_stages import OmniStages

_IDEAS = ("a star", "something round and red", "two circles", "a blue square", "a heart", "a ring on black", "a moon",
          "a yellow thing")  # fmt: skip


@dataclass(frozen=True)
class _Run:
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
    """Both ways over the same open stages; a table on stderr, one JSON object last on stdout."""
    command = command_of("stages", locals())
    for name, value in (("num_requests", num_requests), ("repeats", repeats)):
        if value < 1:
            raise InvalidRequestError(f"{name} is {value}; expected at least 1", name)
    configs = load_deploy_config(deploy_config) if deploy_config else _demo()
    fields = {"num_inference_steps": num_inference_steps, "height": size, "width": size}
    with OmniStages(stages=configs) as omni:
        result = measure(omni, _requests(num_requests, fields), repeats)
    _print_table(result)
    asked = {"num_inference_steps": num_inference_steps, "size": size}
    write_result({"command": command, **result, **asked}, output)


def measure(omni: OmniStages, requests: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    """Medians over `repeats`, which alternate between the ways after a warm-up, and how equal the outputs are."""
    ways: dict[str, Callable[[], _Run]] = {
        "pipelined": lambda: _pipelined(omni, requests),
        "stage_by_stage": lambda: _stage_by_stage(omni, requests),
    }
    for way in ways.values():  # learns and verifies, so that the measured runs are the steady state
        way()
    runs = {name: [] for name in ways}  # type: dict[str, list[_Run]]
    for _ in range(repeats):
        for name, way in ways.items():
            runs[name].append(way())
    medians = {
        name: {what: round(statistics.median(getattr(run, what) for run in several), 3)
               for what in ("total", "first", "median")}
        for name, several in runs.items()
    }  # fmt: skip
    pairs = zip(runs["pipelined"][0].outputs, runs["stage_by_stage"][0].outputs, strict=True)
    equal = [(one.text == other.text, _difference(one, other)) for one, other in pairs]
    machine = describe_model(omni.model)
    ratios = [b.total / a.total for a, b in zip(runs["pipelined"], runs["stage_by_stage"], strict=True)]
    return {
        "bench": "stages",
        "stages": [config.model for config in omni.configs],
        "num_requests": len(requests),
        "repeats": repeats,
        "seconds": medians,
        "ratio_total": round(statistics.median(ratios), 3),
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


def _pipelined(omni: OmniStages, requests: list[dict[str, Any]]) -> _Run:
    start, ended = perf_counter(), []  # type: float, list[float]
    futures = [omni.submit(request) for request in requests]
    for future in futures:
        future.add_done_callback(lambda _: ended.append(perf_counter() - start))
    return _run_of([future.result() for future in futures], ended, perf_counter() - start)


def _stage_by_stage(omni: OmniStages, requests: list[dict[str, Any]]) -> _Run:
    """All requests through one stage, then all through the next; each stage batches as it likes."""
    start, ended = perf_counter(), []  # type: float, list[float]
    flows = [omni.flow(request, f"bench-{i}") for i, request in enumerate(requests)]
    for index, link in enumerate(omni.pipeline.links):
        futures = []
        for flow in flows:
            prompt = flow.prompts[index]
            if link.handoff is not None:
                given = Handover(output=flow.outputs[-1], prompt=prompt, user_prompt=flow.user_prompt,
                                 outputs=tuple(flow.outputs))  # fmt: skip
                prompt = link.handoff(given)
            futures.append(link.stage.submit(prompt, flow.params[index], request_id=flow.request_id))
            if index == len(omni.pipeline.links) - 1:
                futures[-1].add_done_callback(lambda _: ended.append(perf_counter() - start))
        for flow, future in zip(flows, futures, strict=True):
            flow.outputs.append(future.result())
    return _run_of([flow.output() for flow in flows], ended, perf_counter() - start)


def _run_of(outputs: Sequence[Output], ended: list[float], total: float) -> _Run:
    for output in outputs:
        if output.error is not None:
            raise output.error
    return _Run(total=total, first=min(ended), median=statistics.median(ended), outputs=list(outputs))


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
