"""The key-value cache among a call's arguments: whether it can be joined with others', and as it was before a forward.

Knows nothing of calls; `kv_joined` joins the caches of several.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


def joinable(cache: Cache, num_new: int) -> str:
    """Why a cache can't be joined with others for `num_new` positions more; empty if it can."""
    if type(cache) is not DynamicCache:
        return f"a {type(cache).__name__} among the arguments keeps state of its own"
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            continue
        if type(layer) is not DynamicSlidingWindowLayer:
            return f"a cache has layers of {type(layer).__name__}"
        if layer.record_past or layer.cumulative_length + num_new >= layer.sliding_window:
            return "a sliding window of attention is full"
    return ""


def structure(cache: Cache) -> Hashable:
    """What must be equal for caches to be joined."""
    return len(cache.layers), tuple(type(layer).__name__ for layer in cache.layers)


def length(cache: Cache) -> int:
    """Positions that a cache holds."""
    return int(cache.get_seq_length())


@dataclass(frozen=True, slots=True)
class CachedText:
    """The key-value cache among a call's arguments; `reason` says why it can't be joined with others', if so.

    `positioned`: the call says where its tokens stand, so that texts of different lengths can share.
    """

    cache: Cache
    num_new: int
    positioned: bool
    reason: str

    @classmethod
    def of(cls, module: torch.nn.Module, named: Mapping[str, object]) -> "CachedText | None":
        cache = next((value for value in named.values() if isinstance(value, Cache)), None)
        if cache is None:
            return None
        text = text_of(named)
        if text is None:
            return cls(cache, 0, False, "a cache without a text")
        reason = joinable(cache, text.shape[1])
        if attention_of(module) not in ("sdpa", "eager"):
            reason = reason or f"attention is {attention_of(module)}; expected sdpa or eager"
        return cls(cache, text.shape[1], "position_ids" in named, reason)


def text_of(named: Mapping[str, object]) -> Tensor | None:
    """The text that comes with a key-value cache: ids [rows, new] or embeddings [rows, new, channels]."""
    if not any(isinstance(value, Cache) for value in named.values()):
        return None
    texts = (named.get(name) for name in ("inputs_embeds", "input_ids", "hidden_states"))
    return next((one for one in texts if isinstance(one, Tensor) and one.ndim >= 2), None)


def attention_of(module: torch.nn.Module) -> str:
    """The attention implementation of a transformers model."""
    return str(getattr(getattr(module, "config", None), "_attn_implementation", None))


class Kept:
    """A cache as it was, to go back to. Layers replace their tensors when they grow, so that no copy is needed."""

    def __init__(self, cache: Cache) -> None:
        self._cache, self._layers = cache, [(layer, dict(vars(layer))) for layer in cache.layers]

    def restore(self) -> None:
        del self._cache.layers[len(self._layers) :]
        for layer, state in self._layers:
            layer.__dict__.clear()
            layer.__dict__.update(state)
