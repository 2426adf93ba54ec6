"""Whether the engine's pictures on this device are stock's, beside how far stock is from itself when it batches."""

from collections.abc import Sequence

import torch

from interlace.bench.gpu.device import GpuTarget
from interlace.bench.gpu.families import FAMILIES
from interlace.bench.gpu.requests import Arguments, RequestMaker, joined
from interlace.engine.engine import Engine

Pictures = list[torch.Tensor]  # one a request, [1, channels, height, width] in [0, 1]
_STEPS = (4, 3, 2)


class ExactSide:
    """One family with a model of its own. A call compares three requests at one size, of 4, 3 and 2 steps."""

    def __init__(self, family: str, target: GpuTarget) -> None:
        own = FAMILIES[family]
        device, dtype = target.torch_device, target.torch_dtype
        self._pipeline = own.build(device, dtype, tiny=target.tiny)
        self._maker = RequestMaker(own, device, dtype, tiny=target.tiny)

    def __call__(self, size: str) -> dict[str, object]:
        pixels = self._maker.large if size == "large" else self._maker.small
        stock = [self._stock(request) for request in self._requests(pixels)]
        with Engine(self._pipeline) as engine:
            alone = [picture for request in self._requests(pixels) for picture in _drawn(engine, [request])]
            together = _drawn(engine, self._requests(pixels))
            counts = engine.statistics()
        with Engine(self._pipeline, batch_invariant=True) as engine:
            apart = _drawn(engine, self._requests(pixels)[:1])
            beside = _drawn(engine, self._requests(pixels))[:1]
        own = self._stock_batched(pixels)
        return {
            "pixels": pixels,
            "alone": _difference(alone, stock),
            "together": _difference(together, stock),
            "stock_batched": own,
            "batch_invariant_equal": all(map(torch.equal, apart, beside)),
            "finite": all(bool(torch.isfinite(picture).all()) for picture in together),
            "spread": round(float(stock[0].float().std()), 4),  # 0 in pictures of one colour: nothing would be compared
            "mean_rows": {name: round(rows, 2) for name, rows in counts.mean_rows.items()},
            "verified": counts.verified,
            "unfused": dict(counts.unfused),
            "exclusive": counts.exclusive,
        }

    def _requests(self, pixels: int) -> list[Arguments]:
        guided = zip(_STEPS, (3.0, None, 5.0), strict=True)
        return [self._maker.plain(pixels, steps, seed, scale) for seed, (steps, scale) in enumerate(guided)]

    def _stock(self, request: Arguments) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = self._pipeline(**request).images
        return found

    def _stock_batched(self, pixels: int) -> dict[str, float]:
        """Stock's own rounding: its picture in a list of three beside its picture alone."""
        several = [self._maker.plain(pixels, _STEPS[0], seed, 3.0) for seed in range(3)]
        alone = self._stock(self._maker.plain(pixels, _STEPS[0], 0, 3.0))
        return _difference([self._stock(joined(several))[:1]], [alone])


def _drawn(engine: Engine, requests: Sequence[Arguments]) -> Pictures:
    pictures = []
    for output in engine.map(requests):
        if isinstance(output, BaseException):
            raise output
        pictures.append(output.images)
    return pictures


def _difference(ours: Pictures, theirs: Pictures) -> dict[str, float]:
    """Largest and mean, of values in [0, 1]."""
    apart = [(one.float() - other.float()).abs() for one, other in zip(ours, theirs, strict=True)]
    return {
        "max": float(f"{max(float(values.max()) for values in apart):.3g}"),
        "mean": float(f"{sum(float(values.mean()) for values in apart) / len(apart):.3g}"),
    }
