"""Code of strangers in a pipeline's modules that remembers: each request finds its state as its owner left it."""

import random
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FasterCacheConfig, StableDiffusionPipeline
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from interlace import Engine
from interlace.engine.pipeline.variants.code import may_write
from tests.test_families import difference
from tests.zoo import FAMILIES

Undo = Callable[[], object]
EXACT = 1e-4
_A_REQUEST = 2 * len(FAMILIES["sd15-ddim"].build().unet.attn_processors)  # attentions in two steps


def request(i: int, num_inference_steps: int = 2, **more: Any) -> dict[str, Any]:
    size = {"height": 16, "width": 16, "num_inference_steps": num_inference_steps, "output_type": "np"}
    return {"prompt": f"number {i}", "generator": torch.Generator().manual_seed(i), **size, **more}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return FAMILIES["sd15-ddim"].build()


class _Processor:
    def __call__(self, attn: Any, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return AttnProcessor()(attn, states * (1 + 0.01 * self.count()), *args, **kwargs)

    def count(self) -> Any:
        return 1


class Attribute(_Processor):
    def __init__(self) -> None:
        self.n = 0

    def count(self) -> Any:
        self.n += 1
        return self.n


class ListInADict(_Processor):
    def __init__(self) -> None:
        self.store: dict[str, list[int]] = {"seen": []}

    def count(self) -> Any:
        self.store["seen"].append(1)
        return len(self.store["seen"])


class TensorInPlace(_Processor):
    def __init__(self) -> None:
        self.n = torch.zeros(())

    def count(self) -> Any:
        self.n += 1
        return self.n


class OfTheClass(_Processor):
    n = 0

    def __init__(self) -> None:
        type(self).n = 0

    def count(self) -> Any:
        type(self).n += 1
        return self.n


_counted = [0]


class Global(_Processor):
    def __init__(self) -> None:
        _counted[0] = 0

    def count(self) -> Any:
        _counted[0] += 1
        return _counted[0]


class OwnNumbers(_Processor):
    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)

    def count(self) -> Any:
        return torch.rand((), generator=self.random)


class RoundAndRound(_Processor):
    """As those do that know how many steps there are: at a request's end it is where it was."""

    def __init__(self) -> None:
        self.n = 0

    def count(self) -> Any:
        self.n = (self.n + 1) % _A_REQUEST
        return self.n


class PythonsNumbers(_Processor):
    def __init__(self) -> None:
        self.random = random.Random(0)

    def count(self) -> Any:
        return self.random.random()


class Controller(_Processor):
    def __init__(self) -> None:
        self.controller = types.SimpleNamespace(inner=ListInADict())

    def count(self) -> Any:
        return self.controller.inner.count()


def closure() -> Any:
    n = 0

    class Closing(_Processor):
        def count(self) -> Any:
            nonlocal n
            n += 1
            return n

    return Closing()


def processors(make: Callable[[], Any]) -> Callable[[Any], Undo]:
    def install(pipe: Any) -> Undo:
        pipe.unet.set_attn_processor(make())
        return lambda: pipe.unet.set_attn_processor(AttnProcessor2_0())

    return install


def hook(pipe: Any) -> Undo:
    times: list[int] = []

    def count(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        times.append(1)
        return args[0] * (1 + 0.01 * len(times)), *args[1:]

    return pipe.unet.register_forward_pre_hook(count).remove  # type: ignore[no-any-return]


def every_other_block(pipe: Any) -> Undo:
    """As DeepCache does: a block's forward is replaced, its last output kept beside it."""
    block = pipe.unet.mid_block
    stock, kept = block.forward, types.SimpleNamespace(n=0, output=None)

    def forward(*args: Any, **kwargs: Any) -> Any:
        kept.n += 1
        if kept.n % 2:
            kept.output = stock(*args, **kwargs)
        return kept.output

    block.forward = forward
    return lambda: delattr(block, "forward")


def patched_class(pipe: Any) -> Undo:
    """As TeaCache does: the class's forward is replaced, and counts in the class."""
    kind = type(pipe.unet)
    stock = kind.forward
    kind.n = 0

    def forward(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        kind.n += 1
        return stock(self, sample * (1 + 0.01 * kind.n), *args, **kwargs)

    kind.forward = forward

    def undo() -> None:
        kind.forward = stock
        del kind.n

    return undo


class CountingUNet(FAMILIES["sd15-ddim"].build().unet.__class__):  # type: ignore[misc]
    n = 0

    def forward(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.n += 1
        return super().forward(sample * (1 + 0.01 * self.n), *args, **kwargs)


def own_class(pipe: Any) -> Undo:
    stock = type(pipe.unet)
    pipe.unet.__class__ = CountingUNet
    pipe.unet.n = 0

    def undo() -> None:
        del pipe.unet.n
        pipe.unet.__class__ = stock

    return undo


_KINDS: dict[str, Callable[[Any], Undo]] = {
    **{kind.__name__: processors(kind) for kind in (Attribute, ListInADict, TensorInPlace, OfTheClass, Global)},
    **{kind.__name__: processors(kind) for kind in (OwnNumbers, PythonsNumbers, Controller, RoundAndRound)},
    "closure": processors(closure),
    "hook": hook,
    "block": every_other_block,
    "patched class": patched_class,
    "own class": own_class,
}


@pytest.mark.parametrize("name", _KINDS)
def test_what_remembers_runs_one_request_at_a_time_and_starts_anew_for_each(
    pipeline: StableDiffusionPipeline, name: str
) -> None:
    expected = []
    for i in range(2):
        undo = _KINDS[name](pipeline)
        expected.append(pipeline(**request(i)))
        undo()
    undo = _KINDS[name](pipeline)
    try:
        with Engine(pipeline, max_batch_rows=None) as engine:
            wrong = engine.map([request(0, latents=torch.zeros(1, 5, 8, 8))])[0]
            assert isinstance(wrong, Exception), "its failure proves nothing"
            for result, one in zip(engine.map([request(i) for i in (0, 1, 0)]), [*expected, expected[0]], strict=True):
                assert difference(result, one) < EXACT
            assert "keeps state of its own" in (engine.exclusive or "")
        assert difference(pipeline(**request(1)), expected[1]) == 0, "and so does stock's first call after"
    finally:
        undo()


def scaled(factor: float) -> Callable[..., Any]:
    return lambda module, args, output: (output[0] * factor, *output[1:])


def test_what_cannot_remember_is_shared_from_the_first_request_on(pipeline: StableDiffusionPipeline) -> None:
    pipeline.unet.set_attn_processor(_Processor())
    handle = pipeline.unet.register_forward_hook(scaled(1.1))
    try:
        expected = [pipeline(**request(i)) for i in range(3)]
        with Engine(pipeline, max_batch_rows=None, verify_fusion="off") as engine:
            for result, one in zip(engine.map([request(i) for i in range(3)]), expected, strict=True):
                assert difference(result, one) < EXACT
            assert engine.exclusive == ""
            assert engine.stats()["forwards"]["unet"] == 2, "three requests of two steps"
    finally:
        handle.remove()
        pipeline.unet.set_attn_processor(AttnProcessor2_0())


def test_a_hook_that_only_writes_down_what_it_sees_keeps_its_notes(pipeline: StableDiffusionPipeline) -> None:
    seen: list[Any] = []
    handle = pipeline.unet.register_forward_hook(lambda module, args, output: seen.append(output[0].shape))
    try:
        with Engine(pipeline) as engine:
            engine.map([request(0)])
            assert len(seen) == 2
            assert not engine.exclusive
    finally:
        handle.remove()


def test_whether_code_may_write_is_read_off_it_and_of_what_it_calls() -> None:
    total = 0

    def counts() -> None:
        nonlocal total
        total += 1

    def writes() -> int:
        nonlocal total
        total += 1
        return total

    assert may_write(writes)
    assert may_write(counts, logs=False)
    assert not may_write(counts), "nobody looks at the count"
    assert may_write(lambda: writes()), "what it calls"
    assert may_write(Attribute())
    assert may_write(lambda states: states.mul_(2))
    assert not may_write(_Processor())
    assert not may_write(scaled(2.0))


def test_a_schedulers_method_replaced_by_a_function_over_it_works_on_the_requests_own(
    pipeline: StableDiffusionPipeline,
) -> None:
    scheduler = pipeline.scheduler
    stock = scheduler.set_timesteps

    def earlier(num_inference_steps: int, device: Any = None) -> None:
        stock(num_inference_steps, device)
        scheduler.timesteps = scheduler.timesteps - 7

    scheduler.set_timesteps = earlier
    try:
        expected = [pipeline(**request(i, 2 + i)) for i in range(2)]
        with Engine(pipeline) as engine:
            for result, one in zip(engine.map([request(i, 2 + i) for i in range(2)]), expected, strict=True):
                assert difference(result, one) < EXACT
    finally:
        del scheduler.set_timesteps


def test_code_that_only_logs_shares_and_keeps_its_log(
    pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    counts = {"calls": 0}
    original = pipeline.unet.forward

    def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        counts["calls"] += 1
        return original(sample, *args, **kwargs)

    alone = [pipeline(**request(i)) for i in range(3)]
    monkeypatch.setattr(pipeline.unet, "forward", counted, raising=False)
    with Engine(pipeline, max_batch_rows=None) as engine:
        results = engine.map([request(i) for i in range(3)])
        assert not engine.stats()["exclusive"]
    assert max(rows) == 6, "three requests of two rows"
    assert counts["calls"] == len(rows)
    assert max(difference(*pair) for pair in zip(results, alone, strict=True)) < EXACT


def test_a_log_that_other_code_reads_is_state(
    pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    original = pipeline.unet.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return original(*args, **kwargs)

    def faded(module: Any, args: Any, output: Any) -> Any:
        return tuple(one * (0.5 if len(steps) > 2 else 1.0) for one in output)

    monkeypatch.setattr(pipeline.unet, "forward", counted, raising=False)
    handle = pipeline.unet.register_forward_hook(faded)
    try:
        alone = []
        for i in range(3):
            steps.clear()
            alone.append(pipeline(**request(i, 4)))
        steps.clear()
        with Engine(pipeline) as engine:
            results = engine.map([request(i, 4) for i in range(3)])
            assert engine.stats()["exclusive"]
    finally:
        handle.remove()
    assert max(difference(*pair) for pair in zip(results, alone, strict=True)) < EXACT


class SizedBlock(BasicTransformerBlock):  # type: ignore[misc]
    sizes: dict[str, Any]

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        height, width = self.sizes["now"]
        return super().forward(hidden_states * (1 + 0.1 * height / width), *args, **kwargs)


def note_size(module: Any, args: tuple[Any, ...]) -> None:
    module.sizes["now"] = args[0].shape[-2:]


def test_a_hook_that_tells_other_code_the_size_runs_one_request_at_a_time() -> None:
    """As Token Merging does: blocks of another class, and a hook that writes to a dict for them."""
    pipeline: Any = FAMILIES["sd15-ddim"].build()
    sizes: dict[str, Any] = {}
    pipeline.unet.sizes = sizes
    pipeline.unet.register_forward_pre_hook(note_size)
    for block in pipeline.unet.modules():
        if type(block) is BasicTransformerBlock:
            block.__class__, block.sizes = SizedBlock, sizes
    asked = [request(i, width=(16, 24)[i % 2]) for i in range(3)]
    alone = [pipeline(**request(i, width=(16, 24)[i % 2])) for i in range(3)]
    with Engine(pipeline) as engine:
        for result, one in zip(engine.map(asked), alone, strict=True):
            assert difference(result, one) < EXACT
        assert "note_size" in (engine.exclusive or "")


def test_a_processor_that_a_callback_puts_on_counts_for_its_own_request(pipeline: StableDiffusionPipeline) -> None:
    def put_on(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe.unet.set_attn_processor(Attribute())
        return {}

    def asked(i: int) -> dict[str, Any]:
        return request(i, 3, callback_on_step_end=put_on)

    expected = []
    for i in range(2):
        expected.append(pipeline(**asked(i)))
        pipeline.unet.set_attn_processor(AttnProcessor2_0())
    with Engine(pipeline, max_batch_rows=None) as engine:
        for result, one in zip(engine.map([asked(i) for i in range(2)]), expected, strict=True):
            assert difference(result, one) < EXACT
        assert "processor" in engine.stats()["unfused"]["unet (UNet2DConditionModel)"]


def test_a_schedulers_method_that_counts_counts_for_each_request(pipeline: StableDiffusionPipeline) -> None:
    stock = pipeline.scheduler.step
    steps = [0]

    def fading(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        steps[0] += 1
        return stock(output / steps[0], *args, **kwargs)

    pipeline.scheduler.step = fading
    try:
        expected = []
        for i in range(2):
            steps[0] = 0
            expected.append(pipeline(**request(i)))
        steps[0] = 0
        with Engine(pipeline) as engine:
            for result, one in zip(engine.map([request(i) for i in range(2)]), expected, strict=True):
                assert difference(result, one) < EXACT
    finally:
        del pipeline.scheduler.step


def test_a_cache_that_asks_the_users_pipeline_for_the_timestep_sees_the_requests_own() -> None:
    pipeline: Any = FAMILIES["flux"].build()
    config = FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 901),
        attention_weight_callback=lambda module: 0.3,
        tensor_format="BCHW",
        is_guidance_distilled=True,
        current_timestep_callback=lambda: pipeline.current_timestep,
    )

    def asked(i: int) -> dict[str, Any]:
        return request(i, 4 + i, max_sequence_length=16)

    plain = pipeline(**asked(0))
    expected = []
    for i in range(2):
        pipeline.transformer.enable_cache(config)
        expected.append(pipeline(**asked(i)))
        pipeline.transformer.disable_cache()
    assert difference(plain, expected[0]) > EXACT, "the cache does something"
    pipeline.transformer.enable_cache(config)
    with Engine(pipeline) as engine:
        for result, one in zip(engine.map([asked(i) for i in range(2)]), expected, strict=True):
            assert difference(result, one) < EXACT
        assert "faster_cache" in (engine.exclusive or "")
    assert difference(pipeline(**asked(1)), expected[1]) < EXACT, "and so does stock after"


def test_a_forward_that_looks_at_the_users_pipeline_is_not_shared(pipeline: StableDiffusionPipeline) -> None:
    class OfThePipeline(_Processor):
        def count(self) -> Any:
            return pipeline.guidance_scale

    def asked(i: int) -> dict[str, Any]:
        return request(i, guidance_scale=2.0 + i)

    pipeline.unet.set_attn_processor(OfThePipeline())
    try:
        expected = [pipeline(**asked(i)) for i in range(2)]
        with Engine(pipeline, max_batch_rows=None) as engine:
            for result, one in zip(engine.map([asked(i) for i in range(2)]), expected, strict=True):
                assert difference(result, one) < EXACT
            assert "looks at the pipeline" in engine.stats()["unfused"]["unet (UNet2DConditionModel)"]
    finally:
        pipeline.unet.set_attn_processor(AttnProcessor2_0())
