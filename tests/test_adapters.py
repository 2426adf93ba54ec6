"""Adapters by request: eight requests over three adapters and none share their forwards, each as stock alone."""

import threading
import time
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from interlace import Engine
from interlace.engine.adapters import kinds
from interlace.errors import InvalidRequestError
from interlace.models.adapters.files import wanted_sources
from tests.test_families import TOLERANCE, difference
from tests.zoo import FAMILIES
from tests.zoo.family import seeded

_ADAPTERS = {
    "line": (4, ["to_q", "to_k", "to_v"]),
    "wash": (2, ["to_out.0", "conv1", "to_q", "norm1.linear", "time_emb_proj", "proj_out"]),
    "grain": (8, ["to_q", "conv2", "ff.net.2", "proj_mlp", "linear_1"]),
}
_WANTED: list[dict[str, float] | None] = [
    None,
    {"line": 1.0},
    {"wash": 0.5},
    {"grain": 1.3, "line": 0.2},
    {"line": 0.7, "wash": 1.1},
    {"line": 0.0},
    {},
    {"grain": 0.4},
]


def adapted(family: str, **settings: Any) -> tuple[DiffusionPipeline, torch.nn.Module]:
    """A pipeline whose denoiser holds three adapters, none of them active."""
    pipeline = FAMILIES[family].build()
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    torch.manual_seed(0)
    for name, (rank, targets) in _ADAPTERS.items():
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False, **settings)
        denoiser.add_adapter(config, name)
    activate(denoiser, {})
    return pipeline, denoiser


def activate(denoiser: torch.nn.Module, wanted: dict[str, float]) -> None:
    """As a user does; peft has no way to say "none" but to disable them all."""
    if wanted:
        denoiser.set_adapters(list(wanted), list(wanted.values()))
    for layer in (part for part in denoiser.modules() if isinstance(part, BaseTunerLayer) and not wanted):
        layer._active_adapter = []


def requests(family: str, count: int) -> list[dict[str, Any]]:
    own = [kwargs for _ in range(2) for kwargs in FAMILIES[family].requests()]
    for number, kwargs in enumerate(own):
        kwargs["generator"] = torch.Generator().manual_seed(number)
    return own[:count]


def stock(pipeline: DiffusionPipeline, denoiser: torch.nn.Module, family: str) -> list[Any]:
    outputs = []
    for kwargs, wanted in zip(requests(family, len(_WANTED)), _WANTED, strict=True):
        activate(denoiser, wanted or {})
        torch.manual_seed(kwargs["generator"].initial_seed())
        outputs.append(pipeline(**kwargs))
    activate(denoiser, {})
    return outputs


def together(engine: Engine, family: str, wanted: list[dict[str, float] | None]) -> list[Any]:
    asked = zip(requests(family, len(wanted)), wanted, strict=True)
    with engine.paused():  # all of them start together
        futures = [engine.submit(kwargs, adapters=own) for kwargs, own in asked]
    return [future.result(timeout=300) for future in futures]


@pytest.mark.parametrize("family", ["sd15-ddim", "flux"])
def test_requests_with_different_adapters_share_their_forwards_and_are_each_as_stock_alone(family: str) -> None:
    pipeline, denoiser = adapted(family)
    expected = stock(pipeline, denoiser, family)
    calls: list[int] = []
    hook = denoiser.register_forward_hook(lambda *_: calls.append(1))
    plain = [pipeline(**kwargs) for kwargs in requests(family, len(_WANTED))]
    hook.remove()
    with Engine(pipeline, max_batch_rows=None) as engine:
        alone = engine.submit(requests(family, 4)[3], adapters=_WANTED[3]).result(timeout=300)
        assert difference(alone, expected[3]) == 0, "alone: to the last bit"
        for _ in range(2):
            before = engine.stats()["forwards"]
            outputs = together(engine, family, _WANTED)
            assert max(map(difference, outputs, expected)) < TOLERANCE
        stats = engine.stats()
    assert max(map(difference, plain, expected)) > 100 * TOLERANCE, "the adapters change what comes out"
    name = "transformer" if family == "flux" else "unet"
    assert stats["forwards"][name] - before[name] < len(calls) / 2
    assert not stats["unfused"]
    assert difference(pipeline(**requests(family, 1)[0]), expected[0]) == 0, "and the pipeline is left as it was"


def test_what_cannot_be_mixed_runs_by_itself() -> None:
    pipeline, denoiser = adapted("sd15-ddim", use_dora=True)
    expected = stock(pipeline, denoiser, "sd15-ddim")
    with Engine(pipeline, max_batch_rows=None) as engine:
        outputs = together(engine, "sd15-ddim", _WANTED)
    assert max(map(difference, outputs, expected)) < TOLERANCE


def test_a_mixed_forward_that_comes_out_wrong_is_found_and_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, denoiser = adapted("sd15-ddim")
    expected = stock(pipeline, denoiser, "sd15-ddim")
    right = kinds.StackedLora._scales
    monkeypatch.setattr(kinds.StackedLora, "_scales", lambda self, *args: right(self, *args).flip(0))
    with Engine(pipeline, max_batch_rows=None) as engine:
        for _ in range(2):
            outputs = together(engine, "sd15-ddim", _WANTED)
            assert max(map(difference, outputs, expected)) < TOLERANCE
        assert "mixed" in engine.stats()["unfused"]["unet (UNet2DConditionModel)"]


def test_an_owners_active_adapter_holds_for_requests_that_name_none() -> None:
    pipeline, denoiser = adapted("sd15-ddim")
    expected = stock(pipeline, denoiser, "sd15-ddim")
    activate(denoiser, {"line": 1.0})
    with Engine(pipeline, max_batch_rows=None) as engine:
        outputs = together(engine, "sd15-ddim", [{}, None, {"wash": 0.5}])
    for output, place in zip(outputs, (0, 1, 2), strict=True):
        assert difference(output, expected[place]) < TOLERANCE


def test_an_adapter_that_is_not_loaded_is_refused_with_those_that_are() -> None:
    pipeline, _ = adapted("sd15-ddim")
    with Engine(pipeline) as engine, pytest.raises(InvalidRequestError, match="grain, line, wash"):
        engine.submit(requests("sd15-ddim", 1)[0], adapters={"lime": 1.0})


@pytest.mark.parametrize("first", [None, {}, {"line": 1.0}])
def test_an_adapter_that_comes_while_requests_run_is_there_for_those_that_come_after(
    first: dict[str, float] | None,
) -> None:
    pipeline, denoiser = adapted("sd15-ddim")
    slow, new, other = requests("sd15-ddim", 3)
    began, loaded, came = threading.Event(), threading.Event(), threading.Event()
    asked: list[Any] = []

    def rest(view: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        began.set()
        time.sleep(0.05)  # what of its own the request has on the modules stays on meanwhile
        if loaded.is_set() and not came.is_set():
            asked.append(engine.submit(other, adapters={"late": 1.0}))  # from within that request
            came.set()
        return given

    late = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "conv1"], init_lora_weights=False)
    with Engine(pipeline, max_batch_rows=None) as engine:
        running = engine.submit({**slow, "num_inference_steps": 12, "callback_on_step_end": rest}, adapters=first)
        assert began.wait(60)
        with engine.paused(), seeded(3):
            denoiser.add_adapter(late, "late")
            activate(denoiser, {})
        loaded.set()
        assert came.wait(60)
        asked.append(engine.submit(new, adapters={"late": 1.0}))
        assert not running.done()
        outputs = [future.result(timeout=300) for future in (running, *asked)]
    wanted_by = (first, {"late": 1.0}, {"late": 1.0})
    for wanted, got, kwargs in zip(wanted_by, outputs, ({**slow, "num_inference_steps": 12}, other, new), strict=True):
        activate(denoiser, wanted or {})
        kwargs["generator"].manual_seed(kwargs["generator"].initial_seed())
        assert difference(got, pipeline(**kwargs)) < TOLERANCE


def test_a_name_that_is_no_file_is_answered_with_those_that_come_with_the_model() -> None:
    assert [source.name for source in wanted_sources("demo", ["outline"])] == ["outline"]
    with pytest.raises(InvalidRequestError, match="with the model come outline, pastel"):
        wanted_sources("demo", ["nosuch"])
    with pytest.raises(InvalidRequestError, match=r"expected --lora outline --use-lora outline:0\.5"):
        wanted_sources("demo", ["outline:0.5"])
