"""How much of a prompt a pipeline's tokenizers leave out: what a model never read is not in the picture.

Works on copies of the tokenizers, which keep while they run how to pad and cut. No torch.
"""

import copy
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TOO_LONG = "the prompt has {tokens} tokens and the model reads {read}: its end counts for nothing; shorten it"
_NO_LIMIT = 10**6  # tokenizers without one say some enormous number


class TextLimits:
    """The tokenizers of one pipeline. May be asked by many threads."""

    def __init__(self, pipeline: "DiffusionPipeline") -> None:
        self._parts = {
            name: part
            for name, part in getattr(pipeline, "components", {}).items()
            if name.startswith("tokenizer") and callable(part)
        }
        self._copies: dict[str, Any] = {}
        self._lock = threading.Lock()

    def cut(self, prompt: str, arguments: Mapping[str, object]) -> dict[str, int] | None:
        """{"tokens", "read"} of the tokenizer that reads most of a prompt, where even that one cuts; else None.

        `arguments` are those of the pipeline's call. A tokenizer that can't count by itself says nothing.
        """
        if not self._parts or not prompt:
            return None
        told: list[dict[str, int]] = []
        for name in self._parts:
            limit = self._limit(name, arguments)
            if limit is None or len(prompt.encode(errors="replace")) < limit - 2:  # a token is a byte at the least
                return None
            tokens = self._count(name, prompt)
            if tokens is None or tokens <= limit:
                return None
            told.append({"tokens": tokens, "read": limit})
        return max(told, key=lambda one: one["read"])

    def _limit(self, name: str, arguments: Mapping[str, Any]) -> int | None:
        """CLIP has a limit of its own; other encoders read what the call's `max_sequence_length` says."""
        own = getattr(self._parts[name], "model_max_length", None)
        if "CLIP" not in type(self._parts[name]).__name__ and isinstance(arguments.get("max_sequence_length"), int):
            return int(arguments["max_sequence_length"])
        return own if isinstance(own, int) and own < _NO_LIMIT else None

    def _count(self, name: str, prompt: str) -> int | None:
        with self._lock:
            if name not in self._copies:
                self._copies[name] = copy.deepcopy(self._parts[name])
            try:
                return len(self._copies[name](prompt, truncation=False, padding=False)["input_ids"])
            except Exception:  # of other people's tokenizers: only a count is lost
                return None
