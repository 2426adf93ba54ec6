"""Text encoders' outputs, by the content of the call: equal prompts are encoded once.

Hits are the bits that the first such call gave. Holds copies and hands out copies, so that nobody changes another's.
Knows nothing of requests; `store` and `lookup` are safe in several threads.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch

from interlace.config import PromptCachePolicy
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.digest import digest
from interlace.engine.calls.tree import flatten, is_atom, rebuild
from interlace.engine.device.waits import DeviceWait
from interlace.engine.statistics import PromptCacheStatistics


@dataclass(slots=True)
class _KeptEncoding:
    value: Any
    num_bytes: int
    uses: int = 0


class PromptCache:
    """Keeps outputs within `capacity` bytes; what goes first is the oldest (fifo), the one that was last asked for the
    longest ago (lru), or the one asked for least often (lfu, the oldest of those)."""

    def __init__(self, capacity: int, policy: PromptCachePolicy = "lru") -> None:
        self.capacity, self.policy = capacity, policy
        self.by_content = False  # know equal weights in several modules: set where several engines share this
        self._entries: OrderedDict[Hashable, _KeptEncoding] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def key(self, call: ModuleCall) -> Hashable | None:
        """Equal for calls with one output; None where it is no text encoder's call."""
        return content_key(call, self.by_content)

    def lookup(self, call: ModuleCall, *, again: bool = False) -> object | None:
        """The output of an equal call; None where there was none, or where it is no text encoder's call.

        `again`: it was asked for before, and counted as a miss; now it is a hit, or still that miss.
        """
        key = self.key(call)
        if key is None:
            return None
        with self._lock:
            entry = self._entries.get(key)
            if not again:
                self._counts["misses" if entry is None else "hits"] += 1
            if entry is None:
                return None
            if again:
                self._counts.update(hits=1, misses=-1)
            entry.uses += 1
            if self.policy == "lru":
                self._entries.move_to_end(key)
        return _copied(entry.value)[0]

    def store(self, call: ModuleCall, value: object) -> None:
        """Keep what a call gave, if it fits."""
        key = self.key(call)
        if key is None or key in self._entries:
            return
        kept, num_bytes = _copied(value)
        with self._lock:
            if num_bytes > self.capacity:
                self._counts["too_large"] += 1
                return
            if key in self._entries:  # another engine's, in the meantime
                return
            while self._num_bytes + num_bytes > self.capacity:
                self._evict()
            self._entries[key] = _KeptEncoding(kept, num_bytes)
            self._num_bytes += num_bytes

    def statistics(self) -> PromptCacheStatistics:
        """What is in it and what it was good for."""
        with self._lock:
            hits, misses = self._counts["hits"], self._counts["misses"]
            return PromptCacheStatistics(
                policy=self.policy,
                capacity_bytes=self.capacity,
                bytes=self._num_bytes,
                entries=len(self._entries),
                hits=hits,
                misses=misses,
                hit_rate=hits / (hits + misses) if hits + misses else 0.0,
                evictions=self._counts["evictions"],
                too_large=self._counts["too_large"],
            )

    def _evict(self) -> None:
        if self.policy == "lfu":
            key = min(self._entries, key=lambda one: self._entries[one].uses)
        else:
            key = next(iter(self._entries))
        self._num_bytes -= self._entries.pop(key).num_bytes
        self._counts["evictions"] += 1


def content_key(call: ModuleCall, by_content: bool = False) -> Hashable | None:
    """What makes a text encoder's output: the module and its weights as they are, and every argument by value.

    `by_content`: equal weights are the same, wherever they are; they are read once for as long as they don't change.

    None for other modules, in training mode, and with arguments that have no value to compare.
    """
    target = call.target
    if not target.component.startswith("text_encoder") or target.module.training:
        return None
    leaves: list[Any] = []
    skeleton = flatten((call.args, call.kwargs), leaves)
    values: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            values.append((leaf.dtype, tuple(leaf.shape), str(leaf.device), digest(leaf, "prompt cache")))
        elif is_atom(leaf):
            values.append((type(leaf), leaf))
        else:
            return None
    weights = (_content if by_content else _weights)(target.module)
    changed = (weights, call.adapters, call.wears, _embedded(call))
    return target.component, target.method, changed, call.ambient, skeleton, tuple(values)


def _weights(module: torch.nn.Module) -> Hashable:
    """Changes when weights are changed in place, replaced or added; with adapters: on or off, merged, how strong."""
    parameters = list(module.parameters())
    adapters = _adapters(module)
    return len(parameters), sum(p._version for p in parameters), hash(tuple(id(p) for p in parameters)), adapters


def _adapters(module: torch.nn.Module) -> Hashable:
    return tuple(_adapter(part) for part in module.modules() if "lora_A" in part._modules)


def _adapter(layer: Any) -> Hashable:
    names = vars(layer)
    scales = tuple(names.get("scaling", {}).items())
    return str(names.get("_active_adapter")), names.get("_disable_adapters"), tuple(names["merged_adapters"]), scales


def _embedded(call: ModuleCall) -> Hashable:
    """The embeddings that the call's tokens have: textual inversion writes them in place, past every version."""
    ids = call.named.get("input_ids")
    get_table: Callable[[], torch.nn.Module] | None = getattr(call.target.module, "get_input_embeddings", None)
    weight = None if get_table is None else getattr(get_table(), "weight", None)
    if not isinstance(ids, torch.Tensor) or not isinstance(weight, torch.Tensor) or ids.is_floating_point():
        return None
    with DeviceWait("prompt cache"):
        used = torch.unique(ids)
        used = used[used < len(weight)]
    return digest(weight.detach()[used], "prompt cache") if used.device == weight.device else None


def _content(module: torch.nn.Module) -> Hashable:
    """The class, how it is set up, and every tensor's content."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    values = tuple((name, one.dtype, tuple(one.shape), digest(one, "prompt cache")) for name, one in tensors)
    config = getattr(module, "config", None)
    settings = config.to_dict() if config is not None else {}
    plain = {name: one for name, one in settings.items() if not name.startswith("_") and name != "transformers_version"}
    return type(module), str(plain), hash(values), _adapters(module)


def _copied(value: Any) -> tuple[Any, int]:
    """A copy of an output whose tensors are its own, and their bytes."""
    leaves: list[Any] = []
    flatten(value, leaves, objects=True)
    copies = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    num_bytes = sum(leaf.nbytes for leaf in copies if isinstance(leaf, torch.Tensor))
    return rebuild(value, iter(copies), objects=True), num_bytes
