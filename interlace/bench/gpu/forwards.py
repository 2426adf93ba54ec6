"""What a forward costs by its rows: eager, as a CUDA graph, with compiled blocks; share of the peak, and memory."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from interlace.bench.gpu.device import GpuTarget, captured, milliseconds, peak_bytes, published_tflops
from interlace.bench.gpu.families import FAMILIES
from interlace.bench.gpu.requests import RequestMaker
from interlace.bench.planning.calls import calls_of
from interlace.engine.accelerator import name_of
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.fuse import fuse
from interlace.models.optimize import compile_blocks

MODES = ("eager", "graph", "compiled")


class ForwardsSide:
    """One family with a model of its own. A call measures one module in one mode at one size and number of rows.

    Blocks stay compiled once they are: ask for the other modes before.
    """

    def __init__(self, family: str, target: GpuTarget) -> None:
        own = FAMILIES[family]
        self._target, self._device = target, target.torch_device
        self._denoiser = own.denoiser
        self._pipeline = own.build(self._device, target.torch_dtype, tiny=target.tiny)
        self._maker = RequestMaker(own, self._device, target.torch_dtype, tiny=target.tiny)
        self._published = published_tflops(name_of(self._device))
        self._calls: dict[tuple[str, int], ModuleCall] = {}
        self._flops: dict[tuple[str, int], float] = {}
        self._compiled = False

    def __call__(self, module: str, mode: str, size: str, rows: int) -> dict[str, object]:
        if mode == "graph" and self._device.type != "cuda":
            return {"left_out": "a CUDA graph needs a GPU"}
        pixels = self._maker.large if size == "large" else self._maker.small
        call = self._call(module, pixels)
        flops = rows * self._flops_of_row(module, pixels, call)
        if mode == "compiled" and not self._compiled:
            compile_blocks(self._pipeline, backend="inductor" if self._device.type == "cuda" else "eager")
            self._compiled = True
        run = _forward(call, rows)
        with torch.no_grad():
            run()  # compiles, and allocates what stays
            peak = peak_bytes(run, self._device) if mode == "eager" else None
        ms, host_ms = milliseconds(captured(run) if mode == "graph" else run, self._device)
        tflops = flops / ms / 1e9
        return {
            "pixels": pixels,
            "ms": round(ms, 3),
            "host_ms": round(host_ms, 3),
            "ms_per_row": round(ms / rows, 3),
            "tflop": round(flops / 1e12, 4),
            "tflops": round(tflops, 3),
            "mfu": None if self._published is None else round(tflops / self._published, 4),
            "peak_bytes": peak,
        }

    def _call(self, module: str, pixels: int) -> ModuleCall:
        label = self._denoiser if module == "denoiser" else "vae.decode"
        if (module, pixels) not in self._calls:
            calls = calls_of(self._pipeline, self._maker.plain(pixels, steps=2))
            self._calls[module, pixels] = next(call for call in calls if call.target.label == label)
        return self._calls[module, pixels]

    def _flops_of_row(self, module: str, pixels: int, call: ModuleCall) -> float:
        """Counted in an eager forward, whatever is measured afterwards."""
        if (module, pixels) not in self._flops:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
                _forward(call, 1)()
            self._flops[module, pixels] = float(counter.get_total_flops())
        return self._flops[module, pixels]


def _forward(call: ModuleCall, rows: int) -> Callable[[], object]:
    """The call beside copies of itself, fused as the engine fuses them."""
    args, kwargs = fuse([call] * rows)
    return lambda: call.target.run(*args, **kwargs)
