"""Random sequences of what owners do to a pipeline, between and during random requests, against a twin without engine.

The twin has equal weights and undergoes the same changes in the same order: whatever it gives, the engine must give.
"""

import copy
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FirstBlockCacheConfig,
    FlowMatchHeunDiscreteScheduler,
    TaylorSeerCacheConfig,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft import LoraConfig

from interlace import Engine
from interlace.engine.pipeline.intercept import CallGate
from tests.test_families import difference
from tests.zoo import FAMILIES
from tests.zoo.ip import load_ip_adapter, seen

Action = Callable[[Any], object]
EXACT = 1e-4


def denoiser(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def load(pipe: Any, name: str) -> None:
    if name in getattr(denoiser(pipe), "peft_config", {}):
        return
    torch.manual_seed(ord(name))
    config = LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False)
    denoiser(pipe).add_adapter(config, adapter_name=name)
    denoiser(pipe).eval().requires_grad_(False)


def unfused(pipe: Any) -> None:
    if any(getattr(part, "merged_adapters", None) for part in denoiser(pipe).modules()):
        pipe.unfuse_lora()


def fuse(pipe: Any, scale: float) -> None:
    unfused(pipe)
    pipe.fuse_lora(lora_scale=scale)


def learn_word(pipe: Any, seed: int) -> None:
    if "<it>" not in pipe.tokenizer.get_vocab():
        vector = torch.randn(pipe.text_encoder.config.hidden_size, generator=torch.Generator().manual_seed(seed))
        pipe.load_textual_inversion({"<it>": vector}, token="<it>")


def forget_word(pipe: Any) -> None:
    if "<it>" in pipe.tokenizer.get_vocab():
        pipe.unload_textual_inversion()


def weights(pipe: Any, factor: float) -> None:
    module = next(part for part in denoiser(pipe).modules() if isinstance(part, torch.nn.Linear))
    module.load_state_dict({name: value * factor for name, value in module.state_dict().items()})


def cached(pipe: Any, config: Any = None) -> None:
    pipe.transformer.disable_cache()
    if config is not None:
        pipe.transformer.enable_cache(config)


def scheduled(pipe: Any, kind: Any) -> None:
    pipe.scheduler = kind.from_config(pipe.scheduler.config)


def shown(pipe: Any, scale: float) -> None:
    """An IP-Adapter, loaded at the first time; from then on requests show it something."""
    if getattr(pipe.transformer, "encoder_hid_proj", None) is None:
        load_ip_adapter(pipe)
    pipe.set_ip_adapter_scale(scale)


ANY: list[Action] = [
    lambda pipe: pipe.set_adapters(["a"], [0.3]),
    lambda pipe: pipe.set_adapters(["a", "b"], [0.5, 1.0]),
    lambda pipe: pipe.disable_lora(),
    lambda pipe: pipe.enable_lora(),
    lambda pipe: fuse(pipe, 0.6),
    unfused,
    lambda pipe: (load(pipe, "c"), pipe.set_adapters(["c"])),
    lambda pipe: (load(pipe, "c"), pipe.delete_adapters(["c"])),
    lambda pipe: weights(pipe, 1.1),
    lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    lambda pipe: pipe.remove_all_hooks(),
    lambda pipe: pipe.vae.enable_slicing(),
    lambda pipe: pipe.vae.to(torch.float64).to(torch.float32),
]
ACTIONS: dict[str, list[Action]] = {
    "sd15-ddim": [
        *ANY,
        lambda pipe: learn_word(pipe, 1),
        forget_word,
        lambda pipe: pipe.unet.set_attn_processor(AttnProcessor()),
        lambda pipe: pipe.unet.set_attn_processor(AttnProcessor2_0()),
        lambda pipe: scheduled(pipe, EulerDiscreteScheduler),
        lambda pipe: scheduled(pipe, UniPCMultistepScheduler),
        lambda pipe: scheduled(pipe, EulerAncestralDiscreteScheduler),
        lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
        lambda pipe: pipe.disable_freeu(),
        lambda pipe: pipe.fuse_qkv_projections(),
        lambda pipe: pipe.unfuse_qkv_projections() if getattr(pipe, "fusing_unet", False) else None,
    ],
    "flux": [
        *ANY,
        lambda pipe: shown(pipe, 0.8),
        lambda pipe: shown(pipe, 0.2),
        lambda pipe: cached(pipe, FirstBlockCacheConfig(threshold=0.5)),
        lambda pipe: cached(pipe, TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1)),
        cached,
    ],
    "sd3": [*ANY, lambda pipe: scheduled(pipe, FlowMatchHeunDiscreteScheduler)],
}


def shake(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """A request's own changes."""
    if step == 1:
        pipe.set_adapters(["b"], [0.7])
        denoiser(pipe).register_forward_hook(lambda module, arguments, output: None)
    return {}


def fail(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    pipe.set_adapters(["a"], [7.0])
    raise ArithmeticError("on purpose")


def request(pipe: Any, i: int, callback: Any = None) -> dict[str, Any]:
    shows = getattr(denoiser(pipe), "encoder_hid_proj", None) is not None
    return {
        "prompt": f"number {i} <it>",
        "height": 16,
        "width": (16, 24)[i % 2],
        "num_inference_steps": 2 + i % 2,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(i),
        "callback_on_step_end": callback,
        **(seen(i) if shows else {}),
    }


class Hold:
    """Holds a request after its first step."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, step: int, num_steps: int, latents: Any) -> None:
        if step == 1:
            self.reached.set()
            self.go.wait(120)


class Pair:
    """A pipeline with an engine, and its twin. What happens follows from the seed, and how much is the same for all."""

    def __init__(self, built: Any, family: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.pipeline, self.twin = copy.deepcopy(built), copy.deepcopy(built)
        self.actions = self.random.sample(ACTIONS[family], len(ACTIONS[family]))
        self.engine = Engine(self.pipeline, prompt_cache_bytes=1 << 22)

    def next_action(self) -> None:
        self.action = self.actions.pop()

    def expected(self, i: int) -> Any:
        return self.twin(**request(self.twin, i))

    def submit(self, i: int, callback: Any = None, **how: Any) -> Any:
        return self.engine.submit(request(self.pipeline, i, callback), **how)

    def round(self, spoiler: Any) -> None:
        """Two requests beside one that spoils what it can, and one that is cancelled: they are what the twin gives."""
        wanted = self.random.sample(range(20), 2)
        futures = [self.submit(i) for i in wanted]
        self.submit(30, spoiler)
        self.submit(31).cancel()
        for future, i in zip(futures, wanted, strict=True):
            assert difference(future.result(120), self.expected(i)) < EXACT

    def change_between(self) -> None:
        self.next_action()
        self.action(self.pipeline)
        self.action(self.twin)

    def change_meanwhile(self) -> None:
        """The owner changes something while a request is half way."""
        i, hold = self.random.randrange(20), Hold()
        expected = self.expected(i)
        running = self.submit(i, on_step=hold)
        assert hold.reached.wait(120)
        self.next_action()
        acting = threading.Thread(target=self.action, args=(self.pipeline,))
        acting.start()
        acting.join(0.05)
        hold.go.set()
        acting.join(120)
        assert not acting.is_alive()
        self.action(self.twin)
        assert difference(running.result(120), expected) < EXACT

    def close(self) -> None:
        self.engine.close()
        assert difference(self.pipeline(**request(self.pipeline, 1)), self.expected(1)) == 0
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                assert not any(isinstance(value, CallGate) for value in vars(part).values())


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(("family", "seed"), [("sd15-ddim", 0), ("sd15-ddim", 1), ("flux", 2), ("flux", 3), ("sd3", 4)])
def test_whatever_an_owner_does_between_and_during_requests(built: dict[str, Any], family: str, seed: int) -> None:
    if family not in built:
        built[family] = FAMILIES[family].build()
        for name in "ab":
            load(built[family], name)
        built[family].set_adapters(["a"], [1.0])
    pair = Pair(built[family], family, seed)
    for spoiler in (shake, fail, None):
        pair.round(spoiler)
        pair.change_between()
        pair.change_meanwhile()
    pair.round(None)
    pair.close()
