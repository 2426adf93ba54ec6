"""`interlace bench serving`: load on any server that speaks OpenAI's Images API, and what its clients get to feel."""

import asyncio
import contextlib
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from interlace.bench import sides
from interlace.bench.load.percentiles import percentile
from interlace.bench.machine import describe_machine
from interlace.bench.result import command_of, write_result
from interlace.errors import InvalidRequestError

_WAYS = {
    "step": (),
    "request": ("--no-step-execution", "--request-batch-max-wait-ms", "20"),
    "one by one": ("--max-num-seqs", "1"),
}
_SHARE = 0.8  # of what step mode gets through: there is a queue, and it ends
_LABELS = {"step": "Interlace", "request": "request waves", "one by one": "one by one"}
_WORDS = ("red circle", "blue star", "green square", "yellow heart", "purple ring", "orange triangle")


@dataclass(frozen=True)
class RequestKind:
    """One sort of request of a mix."""

    width: int
    height: int
    steps: int
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "RequestKind":
        """`WxH/STEPS[:WEIGHT]`. Raises `InvalidRequestError`."""
        try:
            what, _, weight = text.partition(":")
            size, _, steps = what.partition("/")
            width, _, height = size.partition("x")
            kind = cls(int(width), int(height), int(steps), float(weight or 1))
        except ValueError:
            raise InvalidRequestError(
                f"mix holds {text!r}; expected WxH/STEPS:WEIGHT, as 128x128/16:2", "mix"
            ) from None
        if min(kind.width, kind.height, kind.steps, kind.weight) <= 0:
            raise InvalidRequestError(f"mix holds {text!r}; expected numbers above 0", "mix")
        return kind


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it: seconds from its arrival, and the status (0: no answer)."""

    kind: RequestKind
    seconds: float
    status: int


def serving(
    *,
    url: str | None = None,
    model_name: str = "demo",
    mix: Sequence[str] = ("128x128/16:2", "96x96/12", "64x64/8"),
    rate: float | None = None,
    burst: bool = False,
    num_requests: int = 24,
    slo: float = 3.0,
    seed: int = 0,
    api_key: str | None = None,
    timeout_s: float = 600.0,
    compare: bool = False,
    repeats: int = 1,
    output: Path | None = None,
) -> None:
    """Send `num_requests` at `rate` a second (Poisson), or all at once with `burst`; measure at the client.

    `url` is the server's base, with /v1. `compare` starts Interlace itself, in step and in request mode and one request
    at a time, and gives all three the same arrivals, in turn, `repeats` times; without a rate, at 0.8 of what step mode
    gets through when all come at once: at less all three are idle, at more all of them only queue.

    Of a server elsewhere only the client's machine is known. Prints a table on stderr and one JSON object on stdout.
    """
    command = command_of("serving", locals())
    kinds = [RequestKind.parse(text) for text in mix]
    if min(num_requests, repeats) < 1 or (rate is not None and rate <= 0) or (url is None) != compare or not kinds:
        raise InvalidRequestError(
            f"got url {url}, compare {compare}, rate {rate}, {num_requests} requests; expected --url or --compare, "
            "a rate above 0 and at least one request"
        )
    with contextlib.ExitStack() as stack:
        if compare:
            bases = {way: stack.enter_context(own_server(model_name, flags)) for way, flags in _WAYS.items()}
        else:
            bases = {"server": str(url)}
        loads = {way: _ClientLoad(base, model_name, api_key, timeout_s) for way, base in bases.items()}
        solo = {way: asyncio.run(load.alone(kinds)) for way, load in loads.items()}[next(iter(loads))]
        if not burst and rate is None:
            rate = _bearable(loads["step"], _plan(random.Random(seed), kinds, num_requests, None)) if compare else 1.0
        plan = _plan(random.Random(seed), kinds, num_requests, None if burst else rate)
        told: dict[str, list[dict[str, Any]]] = {way: [] for way in loads}
        for _ in range(repeats):
            for way, load in loads.items():
                told[way].append(_figures(*asyncio.run(load.measure(plan)), solo, slo))
                sys.stderr.write(f"{way}: p95 {told[way][-1]['p95_s']} s\n")
    result: dict[str, Any] = {"command": command, "mix": list(mix), "rate": None if burst else rate,
                              "num_requests": num_requests, "repeats": repeats, "slo": slo, "model": model_name,
                              **(describe_machine() if compare else {"client": describe_machine()}),
                              "solo_s": {_name(kind): round(s, 4) for kind, s in solo.items()},
                              "ways": {way: _median(several) for way, several in told.items()}}  # fmt: skip
    if compare:
        result["p95_ratio"] = {
            way: sides.paired_ratio(_column(told[way], "p95_s"), _column(told["step"], "p95_s"))
            for way in list(_WAYS)[1:]
        }
    _print_table(result)
    write_result(result, output)


def _bearable(load: "_ClientLoad", plan: "Sequence[tuple[float, RequestKind, dict[str, Any]]]") -> float:
    """A share of the requests a second that a server gets through when all of them come at once."""
    return round(_SHARE * len(plan) / asyncio.run(load.measure(plan))[1], 2)


def _plan(
    rng: random.Random, kinds: Sequence[RequestKind], count: int, rate: float | None
) -> list[tuple[float, RequestKind, dict[str, Any]]]:
    """When each request arrives, of which kind it is, and what is the same of it for every server."""
    now, plan = 0.0, []
    for number in range(count):
        kind = rng.choices(kinds, [k.weight for k in kinds])[0]
        prompt = f"a {rng.choice(_WORDS)} on a white background"
        plan.append((now, kind, {"prompt": prompt, "seed": number}))
        now += rng.expovariate(rate) if rate is not None else 0.0
    return plan


class _ClientLoad:
    """A client of one server."""

    def __init__(self, base: str, model: str, api_key: str | None, timeout_s: float) -> None:
        self._url = base.rstrip("/") + "/images/generations"
        self._model, self._timeout = model, timeout_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def alone(self, kinds: Sequence[RequestKind]) -> dict[RequestKind, float]:
        """Seconds of each kind alone; the server is warm afterwards."""
        async with self._client() as client:
            solo = {}
            for kind in kinds:
                runs = [await self._one(client, kind, {"prompt": "a red circle", "seed": n}, 0.0) for n in range(3)]
                if any(run.status != 200 for run in runs):
                    raise InvalidRequestError(f"{self._url} answers {_name(kind)} with {runs[0].status}; expected 200")
                solo[kind] = statistics.median(run.seconds for run in runs[1:])
            return solo

    async def measure(self, plan: Sequence[tuple[float, RequestKind, dict[str, Any]]]) -> tuple[list[Answer], float]:
        """The answers in order of arrival, and the span until the last of them, in seconds."""
        async with self._client() as client:
            start = perf_counter()
            answers = await asyncio.gather(
                *(self._one(client, kind, own, start + arrival - perf_counter()) for arrival, kind, own in plan)
            )
            return list(answers), perf_counter() - start

    def _client(self) -> Any:
        import httpx

        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(timeout=self._timeout, limits=limits, headers=self._headers)

    async def _one(self, client: Any, kind: RequestKind, own: dict[str, Any], wait_s: float) -> Answer:
        import httpx

        await asyncio.sleep(max(wait_s, 0.0))
        body = {"model": self._model, "size": f"{kind.width}x{kind.height}", "num_inference_steps": kind.steps, **own}
        start = perf_counter()
        try:
            status = (await client.post(self._url, json=body)).status_code
        except httpx.HTTPError:
            status = 0
        return Answer(kind, perf_counter() - start, status)


@contextlib.contextmanager
def own_server(model_name: str, flags: Sequence[str]) -> Iterator[str]:
    """A server of our own on a free port; its base URL."""
    command = [sys.executable, "-m", "interlace", "serve", model_name, "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        said = next((line for line in process.stdout if "listening on" in line), None)
        if said is None:
            raise InvalidRequestError(f"{' '.join(command[1:])} ended with status {process.wait()}; expected a server")
        yield said.split()[-1] + "/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _figures(answers: Sequence[Answer], span: float, solo: dict[RequestKind, float], slo: float) -> dict[str, Any]:
    good = [answer for answer in answers if answer.status == 200]
    seconds = [answer.seconds for answer in good] or [float("nan")]
    met = sum(answer.seconds <= slo * solo[answer.kind] for answer in good)
    return {
        "throughput_per_s": round(len(good) / span, 4),
        "mean_s": round(statistics.mean(seconds), 4),
        **{f"p{q}_s": round(percentile(seconds, q), 4) for q in (50, 95, 99)},
        "attained": round(met / len(answers), 4),
        "goodput_per_s": round(met / span, 4),
        "failed": len(answers) - len(good),
        "span_s": round(span, 3),
    }


def _median(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figure by figure; of failures the sum."""
    middle = {name: round(statistics.median(_column(several, name)), 4) for name in several[0]}
    return {**middle, "failed": sum(one["failed"] for one in several)}


def _column(several: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [one[name] for one in several]


def _name(kind: RequestKind) -> str:
    return f"{kind.width}x{kind.height}/{kind.steps}"


def _print_table(result: dict[str, Any]) -> None:
    arrivals = "at once" if result["rate"] is None else f"{result['rate']:g} a second"
    title = f"{result['num_requests']} requests, {arrivals}, {', '.join(result['mix'])}"
    table = Table("way", "requests/s", "mean s", "p50 s", "p95 s", "p99 s", f"in {result['slo']:g}x solo", title=title)
    for way, f in result["ways"].items():
        numbers = [f"{f[name]:.2f}" for name in ("throughput_per_s", "mean_s", "p50_s", "p95_s", "p99_s")]
        table.add_row(_LABELS.get(way, way), *numbers, f"{f['attained']:.0%}")
    Console(file=sys.stderr).print(table)
