"""What belongs to whom: requests' own changes, their owner's state, and both at once, on real pipelines."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from interlace import Engine
from interlace.engine.pipeline.variants.outfit import Outfit
from tests.test_families import difference
from tests.zoo import FAMILIES
from tests.zoo.family import PROMPTS

Kwargs = dict[str, Any]
EXACT = 1e-4


def lora(module: Any, name: str, targets: tuple[str, ...] = ("to_q", "to_v")) -> None:
    """A LoRA adapter with random weights."""
    torch.manual_seed(len(name) + ord(name[0]))
    module.add_adapter(LoraConfig(target_modules=list(targets), init_lora_weights=False), adapter_name=name)
    module.eval().requires_grad_(False)


@pytest.fixture
def pipeline() -> StableDiffusionPipeline:
    built = FAMILIES["sd15-ddim"].build()
    lora(built.unet, "a")
    lora(built.unet, "b")
    built.set_adapters(["a"], [1.0])
    return built


@pytest.fixture
def engine(pipeline: StableDiffusionPipeline) -> Iterator[Engine]:
    with Engine(pipeline, max_batch_rows=None) as opened:
        yield opened


def request(i: int, steps: int = 4, **more: Any) -> Kwargs:
    return {
        "prompt": PROMPTS[i % len(PROMPTS)],
        "height": 32,
        "width": 32,
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(i),
        **more,
    }


def adapters(weights: dict[str, float]) -> Outfit:
    def put_on(pipe: Any) -> None:
        if weights:
            pipe.enable_lora()
            pipe.set_adapters(list(weights), list(weights.values()))
        else:
            pipe.disable_lora()

    return Outfit(tuple(weights.items()), put_on)


class Pause:
    """Holds a request at its second step until `resume`."""

    def __init__(self) -> None:
        self.reached, self.resume = threading.Event(), threading.Event()

    def __call__(self, step: int, num_steps: int, latents: Any) -> None:
        if step == 2:
            self.reached.set()
            assert self.resume.wait(60)


def forwards(engine: Engine, run: Callable[[], Any], module: str = "unet") -> int:
    before = engine.stats()["forwards"].get(module, 0)
    run()
    return int(engine.stats()["forwards"][module] - before)


def test_requests_with_adapters_of_their_own_get_them_and_equal_ones_share(
    pipeline: StableDiffusionPipeline, engine: Engine
) -> None:
    wanted: list[dict[str, float]] = [{"a": 0.3}, {"b": 1.0}, {"a": 0.3}, {"a": 0.5, "b": 0.5}, {}]
    expected = []
    for i, weights in enumerate(wanted):
        adapters(weights).put_on(pipeline)
        expected.append(pipeline(**request(i)))
    pipeline.enable_lora()
    pipeline.set_adapters(["a"], [1.0])
    owners = pipeline(**request(9))

    def run() -> None:
        with engine.paused():  # all of them start together
            futures = [engine.submit(request(i), outfit=adapters(weights)) for i, weights in enumerate(wanted)]
            plain = engine.submit(request(9))
        for future, one in zip(futures, expected, strict=True):
            assert difference(future.result(), one) < EXACT
        assert difference(plain.result(), owners) < EXACT

    run()
    assert forwards(engine, run) <= 5 * 4, "0 and 2 share: five kinds of four steps"
    assert difference(pipeline(**request(9)), owners) == 0, "the owner's state is as it was"


def test_an_adapter_that_nobody_has_loaded_is_that_requests_error(engine: Engine) -> None:
    future = engine.submit(request(0), outfit=adapters({"nobody's": 1.0}))
    assert isinstance(future.exception(60), ValueError)
    assert not isinstance(engine.map([request(1)])[0], BaseException)


def swapped(pipe: Any) -> None:
    """Another adapter in the place of one, as `load_lora_weights(hotswap=True)` does it."""
    weights = get_peft_model_state_dict(pipe.unet, adapter_name="b")
    pipe.unet.load_lora_adapter({**weights}, adapter_name="a", hotswap=True, prefix=None)


def owners_changes() -> dict[str, Callable[[StableDiffusionPipeline], None]]:
    return {
        "weights of adapters": lambda pipe: pipe.set_adapters(["a", "b"], [0.2, 0.9]),
        "adapters off": lambda pipe: pipe.disable_lora(),
        "an adapter more": lambda pipe: (lora(pipe.unet, "c", ("to_k",)), pipe.set_adapters(["c"]))[1],
        "merged": lambda pipe: pipe.fuse_lora(lora_scale=0.4),
        "other weights": lambda pipe: pipe.unet.conv_in.load_state_dict(
            {name: 2 * value for name, value in pipe.unet.conv_in.state_dict().items()}
        ),
        "a scale written into a dict": lambda pipe: next(
            part for part in pipe.unet.modules() if hasattr(part, "scaling")
        ).set_scale("a", 0.1),
        "another adapter in its place": swapped,
    }


@pytest.mark.parametrize("name", owners_changes())
def test_an_owners_change_holds_for_requests_that_start_after_it_and_for_no_others(
    pipeline: StableDiffusionPipeline, engine: Engine, name: str
) -> None:
    before = [pipeline(**request(i)) for i in range(2)]
    pause = Pause()
    running = engine.submit(request(0), on_step=pause)
    assert pause.reached.wait(60)
    changing = threading.Thread(target=owners_changes()[name], args=(pipeline,))
    changing.start()
    changing.join(0.1)  # it waits for its turn
    pause.resume.set()
    changing.join(60)
    assert not changing.is_alive()
    later = engine.submit(request(1))
    assert difference(running.result(60), before[0]) < EXACT
    result = later.result(60)
    assert difference(result, pipeline(**request(1))) < EXACT
    assert difference(result, before[1]) > EXACT, "the change is one"
