"""How an omni-modal stage is run, and where each of its parts. Knows nothing of torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from interlace.checks import check_number, check_speech
from interlace.errors import InvalidRequestError

PARTS = ("thinker", "talker", "code2wav")


@dataclass(frozen=True, kw_only=True)
class PartArgs:
    """Where and how one part runs; None: as the stage says. Replicas are copies of the part in this process."""

    device: str | tuple[str, ...] | None = None  # one, or one a replica
    replicas: int = 1
    max_num_seqs: int | None = None  # of each replica
    memory_budget: str | int | None = None  # of each replica: weights, key-value caches and forwards
    memory_utilization: float | None = None
    kv_cache_gib: float | None = None  # of each replica; None: half of what the budget leaves beside the weights

    def __post_init__(self) -> None:
        check_number("replicas", self.replicas, 1, whole=True, high=64)
        if self.max_num_seqs is not None:
            check_number("max_num_seqs", self.max_num_seqs, 1, whole=True)
        if self.kv_cache_gib is not None:
            check_number("kv_cache_gib", self.kv_cache_gib, 1e-6)
        if isinstance(self.device, list):
            object.__setattr__(self, "device", tuple(self.device))
        named = self.device if isinstance(self.device, tuple) else (self.device or "cpu",)
        for one in named:
            if not isinstance(one, str) or not re.fullmatch(r"[a-z]+(:\d+)?", one):
                raise InvalidRequestError(f"device is {one!r}; expected cuda, cuda:1, cpu, ... or a list", "device")
        if len(named) not in (1, self.replicas):
            text = f"device names {len(named)} devices for {self.replicas} replicas; expected one, or one a replica"
            raise InvalidRequestError(text, "device")

    def devices(self, otherwise: str) -> list[str]:
        """One a replica."""
        named = (self.device,) if isinstance(self.device, str) else self.device or (otherwise,)
        return list(named if len(named) == self.replicas else named * self.replicas)


@dataclass(frozen=True, kw_only=True)
class OmniEngineArgs:
    """How the three parts of an omni-modal model are run; `parts` places them one by one."""

    max_num_seqs: int = 16
    max_model_len: int | None = None  # tokens of prompt and answer; None: what the model can
    memory_budget: str | int | None = None  # of each part's engine
    prefix_cache_gib: float = 0.25  # keys and values of system prompts that are kept; 0: none
    dtype: str | None = None  # of thinker and talker; the code2wav is float32
    revision: str | None = None
    local_files_only: bool = False
    system_prompt: str | None = None
    parts: Mapping[str, PartArgs] = field(default_factory=dict)  # {"talker": {"device": "cuda:1"}}
    voice: str | None = None  # None: the model's first
    speech: Mapping[str, Any] = field(default_factory=dict)  # how the talker samples

    def __post_init__(self) -> None:
        check_number("max_num_seqs", self.max_num_seqs, 1, whole=True)
        check_number("prefix_cache_gib", self.prefix_cache_gib, 0)
        if self.max_model_len is not None:
            check_number("max_model_len", self.max_model_len, 2, whole=True)
        if not isinstance(self.parts, Mapping) or set(self.parts) - set(PARTS):
            text = f"parts is {self.parts!r}; expected some of {', '.join(PARTS)}, each with keys such as device"
            raise InvalidRequestError(text, "parts")
        object.__setattr__(self, "parts", {name: _part(name, given) for name, given in self.parts.items()})
        check_speech(None, self.voice, self.speech)

    def part(self, name: str) -> PartArgs:
        """How one part runs."""
        return self.parts.get(name, PartArgs())


def _part(name: str, given: Any) -> PartArgs:
    if isinstance(given, PartArgs):
        return given
    known = [one.name for one in fields(PartArgs)]
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise InvalidRequestError(f"parts: {name} is {given!r}; expected some of {', '.join(known)}", "parts")
    return PartArgs(**given)
