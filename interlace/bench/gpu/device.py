"""The device that is measured: what it is, what it gives, how long something takes. CUDA, or a CPU for tiny models."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from interlace.engine.accelerator import module_of, name_of, synchronize, total_memory

# Dense bfloat16 TFLOP/s as the maker publishes them, by what the device's name holds; the first that fits.
PUBLISHED_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
}
_GEMM = {"cuda": 8192, "cpu": 256}  # rows and columns


@dataclass(frozen=True)
class GpuTarget:
    """Where and in what precision the check runs; `tiny` models anywhere, real ones on a GPU."""

    device: str
    dtype: str
    tiny: bool

    @property
    def torch_device(self) -> torch.device:
        """With its number."""
        return torch.device("cuda:0" if self.device == "cuda" else self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """As torch names it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


class MachineFacts:
    """A side without a model: what the device is called, has and gives. The first sign that it works at all."""

    def __init__(self, target: GpuTarget) -> None:
        self._target = target

    def __call__(self) -> dict[str, object]:
        device, dtype = self._target.torch_device, self._target.torch_dtype
        facts: dict[str, object] = {"name": name_of(device), "memory_bytes": total_memory(device)}
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            facts |= {
                "capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": properties.multi_processor_count,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
            }
        facts["gemm_tflops"] = round(_gemm_tflops(device, dtype), 4)
        facts["published_tflops"] = published_tflops(name_of(device))
        return facts


def published_tflops(name: str) -> float | None:
    """The maker's figure for a device of that name; None for one that the table doesn't have."""
    return next((tflops for known, tflops in PUBLISHED_TFLOPS.items() if known in name), None)


@torch.no_grad()
def milliseconds(run: Callable[[], object], device: torch.device, budget_s: float = 1.5) -> tuple[float, float]:
    """Of one `run` on the device, and of the host until it had queued it: medians of 3 to 10."""
    run()
    synchronize(device)
    first = perf_counter()
    run()
    synchronize(device)
    count = max(3, min(10, int(budget_s / max(perf_counter() - first, 1e-6))))
    taken = [_once(run, device) for _ in range(count)]
    return statistics.median(own for own, _ in taken), statistics.median(host for _, host in taken)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """What one `run` allocates at most, beside what is there already. None where the device doesn't count."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """`run` as one CUDA graph, over the tensors that it has now; calling it replays the graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        kept = run()

    def replay() -> None:
        assert kept is not None  # the graph's output lives as long as what replays it
        graph.replay()

    return replay


def _once(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    start = perf_counter()
    if device.type != "cuda":
        run()
        return (taken := 1000 * (perf_counter() - start)), taken
    begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begins.record()
    run()
    ends.record()
    host = 1000 * (perf_counter() - start)
    ends.synchronize()
    return begins.elapsed_time(ends), host


def _gemm_tflops(device: torch.device, dtype: torch.dtype) -> float:
    side = _GEMM["cuda" if module_of(device) is not None else "cpu"]
    a = torch.randn(side, side, device=device).to(dtype)
    taken, _ = milliseconds(lambda: a @ a, device, budget_s=0.5)
    return 2.0 * side**3 / taken / 1e9
