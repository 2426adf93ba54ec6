"""Caches of text encodings that several engines share. Knows nothing of stages."""

from interlace.engine.caches.prompt import PromptCache
from interlace.engine.engine import Engine
from interlace.engine.statistics import PromptCacheStatistics


class PromptCaches:
    """Engines that encode prompts share a cache where its settings are equal: one budget, and hits across stages."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], PromptCache] = {}

    def share(self, engine: Engine) -> None:
        """Gives an engine that keeps text encodings the cache of those before it."""
        own = engine.prompt_cache
        if own is None:
            return
        shared = engine.prompt_cache = self._known.setdefault((own.capacity, own.policy), own)
        shared.by_content = shared.by_content or shared is not own

    def statistics(self) -> list[PromptCacheStatistics]:
        """Each cache once."""
        return [cache.statistics() for cache in self._known.values()]
