"""The prompt cache: hits are the same bits; what goes first; nothing else changes."""

from typing import Any

import numpy as np
import pytest
import torch

from interlace import Engine
from interlace.engine.caches.prompt import PromptCache
from interlace.engine.calls.call import ModuleCall, Target
from interlace.errors import InvalidRequestError
from tests.tiny import tiny_flux


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (input_ids * self.weight,)


ENCODER = Encoder().eval()


def call(*tokens: int, component: str = "text_encoder", module: Encoder = ENCODER) -> ModuleCall:
    target = Target.of(component, module, "forward", module.forward)
    return ModuleCall(target, (torch.tensor([tokens]),), {}, None)


def ask(cache: PromptCache, *tokens: int) -> bool:
    """Whether it was there; it is afterwards."""
    one = call(*tokens)
    known = cache.lookup(one)
    if known is None:
        cache.store(one, one.target.run(*one.args))
    return known is not None


@pytest.mark.parametrize(("policy", "left"), [("fifo", {2, 3, 4}), ("lru", {1, 3, 4}), ("lfu", {1, 2, 4})])
def test_what_leaves_a_full_cache_first(policy: Any, left: set[int]) -> None:
    cache = PromptCache(3 * 4, policy)  # three outputs of one float
    hits = (
        [ask(cache, token) for token in (1, 2, 2, 2, 1, 3, 3, 1, 1)]
        if policy == "lfu"
        else [ask(cache, token) for token in (1, 2, 3, 1)]
    )
    assert sum(hits) == (6 if policy == "lfu" else 1)
    ask(cache, 4)
    assert {token for token in (1, 2, 3, 4) if cache.lookup(call(token)) is not None} == left
    assert cache.statistics().evictions == 1
    assert cache.statistics().bytes == 12


def test_hits_are_copies_of_the_same_bits() -> None:
    cache = PromptCache(1000)
    ask(cache, 1, 2)
    first = cache.lookup(call(1, 2))
    assert torch.equal(first[0], torch.tensor([[1.0, 2.0]]))
    first[0].zero_()
    assert torch.equal(cache.lookup(call(1, 2))[0], torch.tensor([[1.0, 2.0]]))


def test_other_texts_modules_and_weights_are_no_hits() -> None:
    cache, module = PromptCache(1000), Encoder().eval()
    one = call(1, module=module)
    cache.store(one, one.target.run(*one.args))
    assert cache.lookup(call(1, module=module)) is not None
    assert cache.lookup(call(2, module=module)) is None
    assert cache.lookup(call(1, component="text_encoder_2", module=module)) is None
    assert cache.lookup(call(1, component="transformer", module=module)) is None
    module.weight.mul_(2)
    assert cache.lookup(call(1, module=module)) is None
    assert cache.lookup(call(1, module=module.train())) is None


def test_engines_that_share_a_cache_find_what_equal_weights_gave() -> None:
    cache, twin, other = PromptCache(1000), Encoder().eval(), Encoder().eval()
    other.weight.mul_(2)
    one = call(1)
    cache.store(one, one.target.run(*one.args))
    assert cache.lookup(call(1, module=twin)) is None
    cache.by_content = True
    cache.store(one, one.target.run(*one.args))
    assert cache.lookup(call(1, module=twin)) is not None
    assert cache.lookup(call(1, module=other)) is None
    twin.weight.mul_(2)
    assert cache.lookup(call(1, module=twin)) is None


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = PromptCache(4)
    assert [ask(cache, 1, 2), ask(cache, 1, 2), ask(cache, 1), ask(cache, 1)] == [False, False, False, True]
    assert cache.statistics().too_large == 2


def test_equal_prompts_are_encoded_once_and_pictures_stay_the_same_bits() -> None:
    def requests(prompts: str) -> list[dict[str, Any]]:
        return [
            {"prompt": prompt, "height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": 16,
             "output_type": "np", "generator": torch.Generator().manual_seed(3)}
            for prompt in prompts
        ]  # fmt: skip

    pipeline = tiny_flux()
    with Engine(pipeline, prompt_cache_bytes=2**20, max_num_seqs=1) as engine:
        first = engine.map(requests("ab"))
        before = engine.stats()
        again = engine.map(requests("abab"))
        after = engine.stats()
    assert all(np.array_equal(again[i].images, first[i % 2].images) for i in range(4))
    assert after["forwards"]["text_encoder"] == before["forwards"]["text_encoder"] == 2
    assert after["prompt_cache"]["hits"] == 8
    assert after["prompt_cache"]["entries"] == 4
    with Engine(pipeline, max_num_seqs=1) as engine:
        plain = engine.map(requests("ab"))
        assert engine.stats()["prompt_cache"] is None
    assert all(np.array_equal(plain[i].images, first[i].images) for i in range(2))


def test_equal_prompts_that_come_at_once_are_encoded_once_too() -> None:
    pipeline = tiny_flux()
    made: list[dict[str, Any]] = [
        {"prompt": f"number {i % 4}", "height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": 16,
         "output_type": "np", "generator": torch.Generator().manual_seed(i)}
        for i in range(24)
    ]  # fmt: skip
    with Engine(pipeline, prompt_cache_bytes=2**20, verify_fusion="off", max_batch_rows=None) as engine:
        results = engine.map(made)
        stats = engine.stats()
    assert stats["rows"]["text_encoder"] == stats["rows"]["text_encoder_2"] == 4
    assert (stats["prompt_cache"]["misses"], stats["prompt_cache"]["hits"]) == (8, 40)
    pipeline.set_progress_bar_config(disable=True)
    for i in (0, 5, 23):
        expected = pipeline(**made[i] | {"generator": torch.Generator().manual_seed(i)}).images
        assert float(np.abs(results[i].images - expected).max()) < 1e-5


def test_settings_are_checked() -> None:
    with pytest.raises(InvalidRequestError, match="prompt_cache_policy is 'mru'; expected one of fifo, lru, lfu"):
        Engine(tiny_flux(), prompt_cache_policy="mru")
