"""First Block Cache, row by row: of a shared forward only those rows go through all blocks that need to.

The rule is that of diffusers' `FirstBlockCacheConfig` (from ParaAttention): when the first block changes a row's states
much as it did when the row was last computed, the other blocks' share of that time is added again. Each request
decides for its own rows, so its batch mates can't change its picture. Lossy; off by default.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks._helpers import TransformerBlockRegistry

from interlace.config import EngineConfig
from interlace.engine.device.host import on_device
from interlace.engine.device.waits import DeviceWait
from interlace.engine.pipeline.routine import Routine
from interlace.errors import InvalidRequestError

# Denoisers whose blocks take their rows in these arguments and nowhere else.
_ROW_ARGUMENTS = {
    "FluxTransformer2DModel": ("hidden_states", "encoder_hidden_states", "temb"),
    "SD3Transformer2DModel": ("hidden_states", "encoder_hidden_states", "temb"),
    "QwenImageTransformer2DModel": ("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask", "temb"),
}
_LISTS = ("transformer_blocks", "single_transformer_blocks")

States = tuple[torch.Tensor, torch.Tensor | None]  # image and text, [rows, tokens, channels]


@dataclass
class BlockMemory:
    """What one request keeps of one conditioning. `staged` counts once the forward's output is taken."""

    residual: torch.Tensor | None = None  # what the first block added, when all blocks last ran
    tail: States | None = None  # what all other blocks added then
    staged: "BlockMemory | None" = None
    num_skipped: int = 0

    def commit(self) -> bool:
        """Keep what the last forward staged; True when it skipped the blocks."""
        staged, self.staged = self.staged, None
        if staged is not None:
            self.residual, self.tail = staged.residual, staged.tail
            self.num_skipped += staged.num_skipped
        return staged is not None and staged.num_skipped > 0


@dataclass
class _Forward:
    """The rows of the forward that runs now: whose they are, and which of them go through all blocks."""

    memories: Sequence[BlockMemory]
    rows: Sequence[int]
    computed: torch.Tensor | None = None  # indices of rows
    skipping: list[bool] = field(default_factory=list)  # by memory
    head: States | None = None

    def slices(self) -> Iterator[tuple[BlockMemory, slice]]:
        start = 0
        for memory, count in zip(self.memories, self.rows, strict=True):
            yield memory, slice(start, start + count)
            start += count


class FirstBlockCache:
    """Patches the blocks of a pipeline's denoiser; outside `rows` they work as ever."""

    def __init__(self, pipeline: DiffusionPipeline | Routine, threshold: float) -> None:
        denoiser: Any = getattr(pipeline, "transformer", None)
        name = type(denoiser).__name__
        if name not in _ROW_ARGUMENTS:
            raise InvalidRequestError(
                f"first_block_cache knows {', '.join(sorted(_ROW_ARGUMENTS))}; this denoiser is a {name}: use "
                "step_cache, which works with all",
                "cache_type",
            )
        self._threshold = threshold
        if any(part._compiled_call_impl is not None for part in denoiser.modules()):
            raise InvalidRequestError(
                "first_block_cache decides block by block and can't be compiled; leave out enable_compile, or use "
                "step_cache",
                "cache_type",
            )
        self._names = _ROW_ARGUMENTS[name]
        self._now: _Forward | None = None
        self._blocks = [block for part in _LISTS for block in getattr(denoiser, part, ())]
        self._before = [vars(block).get("forward") for block in self._blocks]  # an owner's own, or a hook's
        self._patches = [self._patched(index, block) for index, block in enumerate(self._blocks)]
        for block, patch in zip(self._blocks, self._patches, strict=True):
            block.__dict__["forward"] = patch

    @classmethod
    def of(cls, pipeline: DiffusionPipeline | Routine, config: EngineConfig) -> "FirstBlockCache | None":
        """For an engine that is to have one."""
        return cls(pipeline, config.threshold) if config.cache_type == "first_block_cache" else None

    @contextlib.contextmanager
    def rows(self, memories: Sequence[BlockMemory], rows: Sequence[int]) -> Iterator[None]:
        """The forward within has `rows[i]` rows of the request with `memories[i]`, in this order."""
        self._now = _Forward(memories, rows)
        try:
            yield
        finally:
            self._now = None

    def close(self) -> None:
        """The blocks are as they were; what their owner has put on since is left."""
        for block, patch, before in zip(self._blocks, self._patches, self._before, strict=True):
            if vars(block).get("forward") is patch:
                del block.__dict__["forward"]
                if before is not None:
                    block.__dict__["forward"] = before

    def _patched(self, index: int, block: torch.nn.Module) -> Callable[..., Any]:
        original = block.forward
        meta = TransformerBlockRegistry.get(type(block))
        image, text = meta.return_hidden_states_index, meta.return_encoder_hidden_states_index
        parameters = tuple(inspect.signature(original).parameters)

        def states(output: Any) -> States:
            return output[image], output[text]

        def packed(values: States) -> tuple[Any, ...]:
            return (values[1], values[0]) if text == 0 else values

        def forward(*args: Any, **kwargs: Any) -> Any:
            now = self._now
            if now is None:
                return original(*args, **kwargs)
            named = dict(zip(parameters, args, strict=False)) | kwargs
            if index == 0:
                output = original(**named)
                now.head = states(output)
                self._decide(now, now.head[0] - named["hidden_states"])
                return output
            done = states(self._on_rows(original, named, now, states, packed))
            return packed(self._finished(now, done) if index == len(self._blocks) - 1 else done)

        return forward

    def _decide(self, now: _Forward, residual: torch.Tensor) -> None:
        computed: list[int] = []
        moved = iter(_moved([(residual[rows], memory) for memory, rows in now.slices()]))
        for memory, rows in now.slices():
            own, last = residual[rows], memory.residual
            skip = next(moved) <= self._threshold
            now.skipping.append(skip)
            if not skip:
                computed += range(rows.start, rows.stop)
            memory.staged = BlockMemory(last, memory.tail, num_skipped=1) if skip else BlockMemory(own)
        now.computed = on_device(computed, residual.device, torch.long)

    def _on_rows(
        self,
        original: Callable[..., Any],
        named: dict[str, Any],
        now: _Forward,
        states: Callable[[Any], States],
        packed: Callable[[States], tuple[Any, ...]],
    ) -> Any:
        """A block on those rows that need it; the others stay as they came."""
        assert now.computed is not None
        total, wanted = sum(now.rows), len(now.computed)
        if wanted == total:
            return original(**named)
        given: States = (named["hidden_states"], named["encoder_hidden_states"])
        if not wanted:
            return packed(given)
        own = {
            name: value.index_select(0, now.computed)
            if name in self._names and isinstance(value, torch.Tensor)
            else value
            for name, value in named.items()
        }
        done = states(original(**own))
        merged = [
            None if new is None or old is None else old.index_copy(0, now.computed, new)
            for old, new in zip(given, done, strict=True)
        ]
        assert merged[0] is not None
        return packed((merged[0], merged[1]))

    def _finished(self, now: _Forward, done: States) -> States:
        """After the last block: computed rows teach, the others get what the blocks added the last time."""
        assert now.head is not None
        image, text = done
        head_image, head_text = now.head
        image = image.clone()
        text = None if text is None else text.clone()
        for skip, (memory, rows) in zip(now.skipping, now.slices(), strict=True):
            if skip:
                assert memory.tail is not None
                image[rows] = head_image[rows] + memory.tail[0]
                if text is not None and head_text is not None and memory.tail[1] is not None:
                    text[rows] = head_text[rows] + memory.tail[1]
            elif memory.staged is not None:
                own_text = None if text is None or head_text is None else text[rows] - head_text[rows]
                memory.staged.tail = (image[rows] - head_image[rows], own_text)
        return image, text


def _moved(rows: Sequence[tuple[torch.Tensor, BlockMemory]]) -> list[float]:
    """How far each residual is from the remembered one, relatively; endlessly far where none is. Waits once for all."""
    found: list[torch.Tensor | float] = []
    for own, memory in rows:
        last = memory.residual
        known = last is not None and memory.tail is not None and last.shape == own.shape
        found.append((own - last).abs().mean() / last.abs().mean() if known and last is not None else float("inf"))
    tensors = [one for one in found if isinstance(one, torch.Tensor)]
    with DeviceWait("first block cache"):
        values = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(values) if isinstance(one, torch.Tensor) else one for one in found]
