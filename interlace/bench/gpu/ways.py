"""Ways to run one family's requests: stock one by one, stock in static batches, Interlace. Each has its own process."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch

from interlace.bench.gpu.device import GpuTarget
from interlace.bench.gpu.families import FAMILIES
from interlace.bench.gpu.overlap import device_idle
from interlace.bench.gpu.requests import Arguments, RequestMaker, joined, static_batches
from interlace.config import EngineConfig
from interlace.engine.accelerator import synchronize
from interlace.engine.engine import Engine
from interlace.errors import InvalidRequestError

WAYS = ("stock", "static", "interlace")
NUM_ADAPTERS = 4
_MAX_BATCH = 16
_WARM_STEPS = 2


class GpuWaySide:
    """One way over a model of its own. A call runs one workload `turns` times, after a short one that warms up, and
    says the seconds of each. `options` are the engine's; `profiled` runs it once under the profiler instead."""

    def __init__(self, family: str, way: str, target: GpuTarget, num_requests: int) -> None:
        own = FAMILIES[family]
        self._way, self._device, self._num_requests = way, target.torch_device, num_requests
        self._denoiser = own.denoiser
        self._pipeline = own.build(self._device, target.torch_dtype, tiny=target.tiny)
        self._maker = RequestMaker(own, self._device, target.torch_dtype, tiny=target.tiny)
        self._engine: Engine | None = None
        self._open_with: dict[str, object] | None = None
        self._adapters: list[str] = []

    def __call__(
        self, workload: str, turns: int = 1, profiled: bool = False, options: dict[str, object] | None = None
    ) -> dict[str, object]:
        if workload == "lora":
            self._add_adapters()
        self._open(options or {})
        requests = self._maker.workload(workload, self._num_requests)
        self._run([{**request, "num_inference_steps": _WARM_STEPS} for request in requests], workload)
        if profiled:
            run = lambda: self._run(self._maker.workload(workload, self._num_requests), workload)  # noqa: E731
            return {"requests": len(requests), **device_idle(run, self._device)}
        before = self._counts()
        seconds = [self._turn(workload) for _ in range(turns)]
        found: dict[str, object] = {
            "requests": len(requests),
            "seconds": [round(taken, 4) for taken in seconds],
            "requests_per_s": round(len(requests) / min(seconds), 4),
        }
        return found | self._told_since(before, turns)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _turn(self, workload: str) -> float:
        requests = self._maker.workload(workload, self._num_requests)
        synchronize(self._device)
        start = perf_counter()
        self._run(requests, workload)
        synchronize(self._device)
        return perf_counter() - start

    def _run(self, requests: Sequence[Arguments], workload: str) -> None:
        if self._engine is not None:
            self._submit(self._engine, requests, workload)
            return
        with torch.no_grad():
            if self._way == "static":
                for indices in static_batches(requests, _MAX_BATCH):
                    self._pipeline(**joined([requests[index] for index in indices]))
                return
            for index, request in enumerate(requests):
                if workload == "lora":
                    self._pipeline.set_adapters([self._adapters[index % NUM_ADAPTERS]], [1.0])
                self._pipeline(**request)

    def _submit(self, engine: Engine, requests: Sequence[Arguments], workload: str) -> None:
        futures = []
        for index, request in enumerate(requests):
            adapters = {self._adapters[index % NUM_ADAPTERS]: 1.0} if workload == "lora" else None
            futures.append(engine.submit(request, adapters=adapters))
        for future in futures:
            future.result()

    def _open(self, options: dict[str, object]) -> None:
        """The engine with these options, a new one where they are others."""
        if self._way != "interlace" or options == self._open_with:
            return
        self.close()
        settings: dict[str, Any] = {"max_num_seqs": _MAX_BATCH, **options}
        self._engine, self._open_with = Engine(self._pipeline, EngineConfig(**settings)), options

    def _add_adapters(self) -> None:
        """Four of rank 16 with random weights on the attention of every block."""
        if self._adapters:
            return
        from peft import LoraConfig

        self.close()
        self._open_with = None
        denoiser: torch.nn.Module = getattr(self._pipeline, self._denoiser)
        add: Callable[..., object] = getattr(denoiser, "add_adapter", _no_adapters)
        for number in range(NUM_ADAPTERS):
            config = LoraConfig(r=16, lora_alpha=16, init_lora_weights=False,
                                target_modules=["to_q", "to_k", "to_v", "to_out.0"])  # fmt: skip
            name = f"adapter{number}"
            add(config, adapter_name=name)
            self._adapters.append(name)
        torch.nn.Module.to(denoiser, self._device, self._pipeline.dtype)
        denoiser.requires_grad_(False)
        if self._way == "interlace":
            disable: Callable[[], object] = getattr(denoiser, "disable_adapters")  # noqa: B009 - diffusers' own
            disable()

    def _counts(self) -> dict[str, tuple[int, int]]:
        if self._engine is None:
            return {}
        counts = self._engine.statistics()
        return {name: (number, counts.rows.get(name, 0)) for name, number in counts.forwards.items()}

    def _told_since(self, before: dict[str, tuple[int, int]], turns: int) -> dict[str, object]:
        """What an engine says of the turns: forwards and their rows, what wasn't shared and why."""
        if self._engine is None:
            return {}
        counts = self._engine.statistics()
        since = {name: (forwards - before.get(name, (0, 0))[0], rows - before.get(name, (0, 0))[1])
                 for name, (forwards, rows) in self._counts().items()}  # fmt: skip
        return {
            "forwards": {name: round(forwards / turns, 2) for name, (forwards, _) in since.items()},
            "mean_rows": {name: round(rows / forwards, 2) for name, (forwards, rows) in since.items() if forwards},
            "skipped": counts.skipped,
            "unfused": dict(counts.unfused),
            "exclusive": counts.exclusive,
            "out_of_memory": counts.out_of_memory,
        }


def _no_adapters(*config: object, adapter_name: str) -> None:
    raise InvalidRequestError(f"this denoiser takes no adapters; got {adapter_name}", "lora")
