"""Keys, values and thoughts of system prompts that many requests begin with, each computed once and kept."""

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from interlace.engine.pipeline.channel import Channel, ChannelClosedError
from interlace.stages.omni.parts import Thought

Key = tuple[int, ...]
_SHORTEST = 16  # tokens: what is shorter isn't worth a forward of its own


@dataclass(frozen=True)
class Prefix:
    """What a model knows of some tokens; `thought` where a talker may ask for it."""

    kept: DynamicCache
    thought: Thought | None

    @property
    def num_bytes(self) -> int:
        tensors = [tensor for layer in self.kept.layers for tensor in (layer.keys, layer.values)]
        if self.thought is not None:
            tensors += [self.thought.embeds, self.thought.hidden]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def cache(self) -> DynamicCache:
        """A cache to go on from. Layers replace their tensors when they grow, so that nothing is copied now."""
        cache = copy.copy(self.kept)
        cache.layers = [copy.copy(layer) for layer in self.kept.layers]
        return cache


class Prefixes:
    """The prefixes of one thinker; past `budget` bytes the least recently used go. For strands of one thread."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._known: OrderedDict[Key, Prefix | list[Channel[None]]] = OrderedDict()
        self.hits = self.misses = 0

    def wants(self, num_tokens: int) -> bool:
        """Whether prefixes of this length are kept."""
        return self._budget > 0 and num_tokens >= _SHORTEST

    def get(self, key: Key, make: Callable[[], Prefix]) -> Prefix:
        """The prefix of these tokens; `make` runs in the first strand that asks, others wait for it."""
        while True:
            found = self._known.get(key)
            if isinstance(found, Prefix):
                self._known.move_to_end(key)
                self.hits += 1
                return found
            if found is None:
                self.misses += 1
                return self._made(key, make)
            done: Channel[None] = Channel()
            found.append(done)
            with contextlib.suppress(ChannelClosedError):
                done.take()

    def stats(self) -> dict[str, object]:
        kept = [one for one in list(self._known.values()) if isinstance(one, Prefix)]
        return {"hits": self.hits, "misses": self.misses, "kept": len(kept),
                "bytes": sum(one.num_bytes for one in kept)}  # fmt: skip

    def _made(self, key: Key, make: Callable[[], Prefix]) -> Prefix:
        waiting: list[Channel[None]] = []
        self._known[key] = waiting
        try:
            prefix = make()
            self._known[key] = prefix
        finally:
            if self._known.get(key) is waiting:  # it failed: whoever waits makes it
                del self._known[key]
            for one in waiting:
                one.close()
        self._evict()
        return prefix

    def _evict(self) -> None:
        kept = {key: one.num_bytes for key, one in self._known.items() if isinstance(one, Prefix)}
        total = sum(kept.values())
        for key, size in kept.items():
            if total <= self._budget:
                return
            del self._known[key]
            total -= size


def growing_cache(config: object) -> DynamicCache | None:
    """An empty cache for a language model of `config` where all its layers keep every position; else None."""
    cache = DynamicCache(config=config)
    return cache if all(type(layer) is DynamicLayer for layer in cache.layers) else None
