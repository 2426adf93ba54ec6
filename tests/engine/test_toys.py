"""docs/extending.md, the engine's side: a step cache, a packer and a kind of adapter, added in a few lines and used."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from peft import LoKrConfig
from peft.tuners.lokr import LoKrLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from interlace import Engine
from interlace.config import CACHE_THRESHOLDS
from interlace.engine.adapters.kinds import KINDS, AdapterKind, MixedRows
from interlace.engine.caches.table import STEP_CACHES, register_step_cache
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.packing.packers import PACKINGS, Packing, by_ids
from interlace.errors import InvalidRequestError
from tests.test_families import TOLERANCE, difference
from tests.zoo import FAMILIES


class EveryOther:
    """A step cache that answers every other step with the output before."""

    def __init__(self, threshold: float) -> None:
        self.last: torch.Tensor | None = None

    def lookup(self, call: ModuleCall, step: int, num_steps: int) -> object | None:
        return None if self.last is None or step % 2 == 0 else (self.last.clone(),)

    def store(self, call: ModuleCall, output: Any) -> None:
        self.last = output[0].clone()


def test_a_step_cache_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FAMILIES["flux"].build()
    with pytest.raises(InvalidRequestError, match="every_other"):
        Engine(pipeline, cache_type="every_other")
    for table in (STEP_CACHES, CACHE_THRESHOLDS):  # taken back after the test
        monkeypatch.setitem(table, "every_other", None)  # type: ignore[arg-type]
    register_step_cache("every_other", EveryOther, threshold=0.5)
    kwargs = FAMILIES["flux"].requests()[0] | {"num_inference_steps": 6}
    with Engine(pipeline, cache_type="every_other") as engine:
        assert engine.config.threshold == 0.5
        (output,) = engine.map([kwargs])
        counts = engine.statistics()
    assert not isinstance(output, BaseException)
    assert (counts.forwards["transformer"], counts.skipped) == (3, 3)


class Mine(FluxTransformer2DModel):
    """A denoiser of a class that nobody knows."""


def test_a_packer_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FAMILIES["flux"].build()
    pipeline.transformer.__class__ = Mine
    kwargs = FAMILIES["flux"].requests()[0] | {"num_inference_steps": 2, "height": 64}

    def forwards() -> int:
        with Engine(pipeline, resolution_tolerance=0.2, max_batch_rows=None, verify_fusion="off") as engine:
            engine.map([{**kwargs, "width": 64}, {**kwargs, "width": 56}])
            return engine.statistics().forwards["transformer"]

    assert forwards() == 4, "two sizes, two steps"
    monkeypatch.setitem(PACKINGS, "Mine", Packing(("img_ids",), by_ids))
    assert forwards() == 2


class WholeDelta:
    """LoKr, mixed: each adapter's whole matrix times each row's weight."""

    def __init__(self, layer: BaseTunerLayer, names: Any) -> None:
        self.layer, self.names, self.sizes = layer, tuple(names), (1,) * len(names)

    def delta(self, x: torch.Tensor, rows: MixedRows) -> torch.Tensor:
        each = (rows.column(n, x) * F.linear(x, self.layer.get_delta_weight(n).to(x.dtype)) for n in self.names)
        return sum(each, torch.zeros(()))


def test_a_kind_of_adapter_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FAMILIES["flux"].build()
    torch.manual_seed(0)
    for name in ("one", "other"):
        config = LoKrConfig(r=2, alpha=2, target_modules=["to_q", "to_v"], init_weights=False)
        pipeline.transformer.add_adapter(config, name)
    wanted = [{"one": 1.0}, {"other": 0.5}, {}]

    def drawn() -> tuple[list[Any], int]:
        with Engine(pipeline, max_batch_rows=None) as engine:
            for _ in range(3):  # new kinds are checked, and equal texts once more where a bit of them came to differ
                before = engine.statistics().forwards.get("transformer", 0)
                with engine.paused():  # all of them start together
                    futures = [engine.submit(FAMILIES["flux"].requests()[0], adapters=own) for own in wanted]
                outputs = [future.result(300) for future in futures]
            return outputs, engine.statistics().forwards["transformer"] - before

    apart, num_apart = drawn()
    monkeypatch.setitem(KINDS, LoKrLayer, AdapterKind(lambda layer, name: not layer.merged, WholeDelta))
    together, num_together = drawn()
    assert num_apart == 3 * num_together
    assert all(difference(one, other) < TOLERANCE for one, other in zip(apart, together, strict=True))
    assert difference(apart[0], apart[1]) > TOLERANCE
