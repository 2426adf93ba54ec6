"""Thousands of requests with adapters, callbacks, aborts, cancels and failures over one engine: is every picture right?

`python bench/soak.py --requests 5000` at the root. Every picture that comes out is compared with stock's for the same
request and the owner's state at its start. The last line is one JSON object; exit status 1 for a wrong picture.
"""

import argparse
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

sys.path.insert(0, str(Path(__file__).parent.parent))

from interlace import Engine
from interlace.engine.pipeline.variants.outfit import Outfit
from interlace.errors import AbortedError
from tests.test_families import difference
from tests.zoo import FAMILIES
from tests.zoo.family import PROMPTS

Kwargs = dict[str, Any]
IN_FLIGHT = 24
ADAPTERS: list[dict[str, float] | None] = [None, {}, {"a": 1.0}, {"a": 0.4}, {"b": 0.7}, {"a": 0.5, "b": 0.5}]
OWNERS: list[dict[str, float]] = [{"a": 0.8}, {"b": 0.3}]


class FailedOnPurposeError(Exception):
    """A callback's own."""


def build() -> Any:
    pipeline = FAMILIES["sd15-ddim"].build()
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False)
        pipeline.unet.add_adapter(config, adapter_name=name)
    pipeline.unet.eval().requires_grad_(False)
    return pipeline


def scale_down(pipe: Any, step: int, timestep: Any, tensors: Kwargs) -> Kwargs:
    """A callback that changes its request's own modules and latents half way."""
    if step == 1:
        pipe.unet.conv_out.to(torch.float64).to(torch.float32)
        pipe.set_adapters(["b"], [0.1])
        return {"latents": tensors["latents"] * 0.9}
    return {}


def fail(pipe: Any, step: int, timestep: Any, tensors: Kwargs) -> Kwargs:
    pipe.set_adapters(["a"], [9.0])
    raise FailedOnPurposeError


def stop(pipe: Any, step: int, timestep: Any, tensors: Kwargs) -> Kwargs:
    pipe._interrupt = step == 1
    return {}


CALLBACKS: list[Callable[..., Kwargs] | None] = [None, None, scale_down, fail, stop]


def request(number: int) -> Kwargs:
    """One of 60 kinds of request; the same number asks for the same picture."""
    return {
        "prompt": PROMPTS[number % len(PROMPTS)],
        "height": (16, 24)[number % 2],
        "width": 16,
        "num_inference_steps": 2 + number % 3,
        "guidance_scale": (1.0, 4.0, 7.0)[number % 3],
        "output_type": "np",
        "generator": torch.Generator().manual_seed(number),
        "callback_on_step_end": CALLBACKS[number % 5],
    }


def put_on(weights: dict[str, float]) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        if weights:
            pipe.enable_lora()
            pipe.set_adapters(list(weights), list(weights.values()))
        else:
            pipe.disable_lora()

    return change


class Soak:
    """One engine, its requests in flight, and what stock gave for each kind of request."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pipeline, self.twin = build(), build()
        self.known: dict[tuple[int, int, int], Any] = {}
        self.counts: Counter[str] = Counter()
        self.owner = 0
        put_on(OWNERS[0])(self.pipeline)
        self.engine = Engine(self.pipeline, max_num_seqs=12)
        self.flying: list[tuple[Any, int, int, int]] = []

    def stock(self, number: int, adapters: int, owner: int) -> Any:
        """What a stock pipeline with equal weights gives; None where its callback fails."""
        key = (number, adapters, owner)
        if key not in self.known:
            wanted = ADAPTERS[adapters]
            put_on(OWNERS[owner] if wanted is None else wanted)(self.twin)
            try:
                self.known[key] = self.twin(**request(number))
            except FailedOnPurposeError:
                self.known[key] = None
        return self.known[key]

    def step(self) -> None:
        """Submit one more, perhaps disturb one, take what is done."""
        number, adapters = self.random.randrange(30), self.random.randrange(len(ADAPTERS))
        wanted = ADAPTERS[adapters]
        outfit = None if wanted is None else Outfit(tuple(wanted.items()), put_on(wanted))
        self.flying.append((self.engine.submit(request(number), outfit=outfit), number, adapters, self.owner))
        chance = self.random.random()
        if chance < 0.05:
            self.engine.abort(self.flying[-1][0].ticket.request_id)
        elif chance < 0.1:
            self.flying[-1][0].cancel()
        while len(self.flying) >= IN_FLIGHT:
            self.take(self.flying.pop(0))

    def change_owner(self) -> None:
        """Between requests: other weights for those that ask for none."""
        while self.flying:
            self.take(self.flying.pop(0))
        self.owner = 1 - self.owner
        put_on(OWNERS[self.owner])(self.pipeline)

    def take(self, flight: tuple[Any, int, int, int]) -> None:
        future, number, adapters, owner = flight
        expected = self.stock(number, adapters, owner)
        try:
            result = future.result(120)
        except (AbortedError, CancelledError):
            self.counts["aborted"] += 1
        except FailedOnPurposeError:
            self.counts["failed as it should" if expected is None else "wrong"] += 1
        else:
            right = expected is not None and difference(result, expected) < 1e-4
            self.counts["right" if right else "wrong"] += 1


def megabytes() -> float:
    """Of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    soak, memory = Soak(options.seed), []
    for done in range(options.requests):
        soak.step()
        if done % 250 == 249:
            soak.change_owner()
            memory.append(megabytes())
            print(done + 1, dict(soak.counts), memory[-1], "MiB", file=sys.stderr, flush=True)
    soak.change_owner()
    soak.engine.close()
    counts = dict(soak.counts)
    print(json.dumps({"requests": options.requests, **counts, "mib_by_250_requests": memory}))
    return 1 if counts.get("wrong") else 0


if __name__ == "__main__":
    sys.exit(main())
