"""What a request's calls need not compute: answers that are known, rows that follow from others, skipped blocks.

One for an engine. What a request itself remembers is in its ticket, and goes with it.
"""

from collections.abc import Hashable
from typing import Any

from interlace.config import EngineConfig
from interlace.engine.caches.first_block import BlockMemory, FirstBlockCache
from interlace.engine.caches.guidance import HeldGuidance, halves
from interlace.engine.caches.prompt import PromptCache
from interlace.engine.caches.step import conditioning
from interlace.engine.caches.table import STEP_CACHES
from interlace.engine.calls.cached.rows import row_caches
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.executor import Executor
from interlace.engine.calls.fuse import close
from interlace.engine.calls.split import CannotSplitError, split
from interlace.engine.policy.pending import DENOISE, ENCODE, stage_of
from interlace.engine.ticket import Ticket


class Shortcuts:
    """Asked before a call is queued, told what came of those that ran."""

    def __init__(self, config: EngineConfig, executor: Executor, blocks: FirstBlockCache | None) -> None:
        self._config, self._executor, self._blocks = config, executor, blocks
        capacity, policy = config.prompt_cache_bytes, config.prompt_cache_policy
        self.prompt_cache = PromptCache(capacity, policy) if capacity else None
        self._make_cache = STEP_CACHES.get(config.cache_type)
        self._halved: dict[Hashable, bool] = {}  # kinds of calls -> whether half of the rows come to the same alone
        self.num_skipped = 0  # denoiser calls that a cache answered, whole or but for the first block
        self.num_held = 0  # denoiser calls, or halves of calls, that a held guidance answered

    def start(self, ticket: Ticket) -> None:
        """What a request that begins will remember."""
        if self._make_cache is not None:
            ticket.step_cache = self._make_cache(self._config.threshold)
        after = self._config.hold_guidance_after if ticket.hold_guidance_after is None else ticket.hold_guidance_after
        if after < 1:
            ticket.guidance = HeldGuidance(after)

    def take(self, ticket: Ticket, call: ModuleCall) -> tuple[ModuleCall, object | None]:
        """The call to queue in the place of `call`, and its answer where that is known."""
        call = self._reduced(ticket, call)
        known = self._known(ticket, call)
        if known is None:
            self._prepare(ticket, call)
        return call, known

    def _reduced(self, ticket: Ticket, call: ModuleCall) -> ModuleCall:
        """The call itself, or the half of its rows that is to run where the request holds its guidance."""
        if ticket.guidance is None or _stage(call) != DENOISE:
            return call
        half = ticket.guidance.narrowed(call, ticket.metrics.num_steps, ticket.num_steps)
        if half is call:
            return call
        if call.kind not in self._halved:
            self._halved[call.kind] = self._same_halved(ticket, call)
        if not self._halved[call.kind]:
            return call
        self._count_held(ticket)
        return half

    def _known(self, ticket: Ticket, call: ModuleCall) -> Any | None:
        """The answer to a call that need not run; None where it must."""
        if self.prompt_cache is not None and (encoded := self.prompt_cache.lookup(call)) is not None:
            return encoded
        if _stage(call) != DENOISE:
            return None
        where = ticket.metrics.num_steps, ticket.num_steps
        if ticket.guidance is not None and (held := ticket.guidance.answer(call, *where)) is not None:
            self._count_held(ticket)
            return held
        if ticket.step_cache is None or row_caches(call.named):  # it may be the call that fills them
            return None
        if (last := ticket.step_cache.lookup(call, *where)) is None:
            return None
        self._count_skipped(ticket)
        return last if ticket.guidance is None else ticket.guidance.deliver(call, last, computed=False)

    def _prepare(self, ticket: Ticket, call: ModuleCall) -> None:
        """A call that is about to be queued gets what the first block cache remembers of its conditioning."""
        if self._blocks is not None and call.target.component == "transformer" and not call.unfusable:
            key = conditioning(call)
            call.memory = ticket.block_memories.pop(key, BlockMemory())
            ticket.block_memories[key] = call.memory

    def distinct(self, group: list[Ticket]) -> list[Ticket]:
        """A group that is about to run, each text once: `late` answers the others afterwards."""
        if self.prompt_cache is None or group[0].call is None or _stage(group[0].call) != ENCODE:
            return group
        keys = [self.prompt_cache.key(ticket.call) for ticket in group if ticket.call is not None]
        return [ticket for i, ticket in enumerate(group) if keys[i] is None or keys[i] not in keys[:i]]

    def late(self, ticket: Ticket) -> object | None:
        """The answer to a queued call that an equal one has brought in the meantime."""
        if self.prompt_cache is None or ticket.call is None or _stage(ticket.call) != ENCODE:
            return None
        return self.prompt_cache.lookup(ticket.call, again=True)

    def learn(self, ticket: Ticket, call: ModuleCall, value: object) -> object:
        """What the pipeline gets for a call that ran and came to `value`."""
        stage = _stage(call)
        if stage == ENCODE and self.prompt_cache is not None:
            self.prompt_cache.store(call, value)
        if stage != DENOISE:
            return value
        if ticket.step_cache is not None:
            ticket.step_cache.store(call, value)
        if call.memory is not None and call.memory.commit():
            self._count_skipped(ticket)
        return value if ticket.guidance is None else ticket.guidance.deliver(call, value, computed=True)

    def _same_halved(self, ticket: Ticket, call: ModuleCall) -> bool:
        """Whether the second half of a call's rows come to the same without the first: tried once a kind."""
        half = halves(call)[1]
        whole, alone = (self._executor.run([one], [ticket.ambient])[0] for one in (call, half))
        if whole.error is not None or alone.error is not None:
            return False
        try:
            return close(split(whole.value, halves(call))[1], alone.value)
        except CannotSplitError:
            return False

    def _count_skipped(self, ticket: Ticket) -> None:
        ticket.metrics.num_skipped += 1
        self.num_skipped += 1

    def _count_held(self, ticket: Ticket) -> None:
        ticket.metrics.num_guidance_held += 1
        self.num_held += 1


def _stage(call: ModuleCall) -> int:
    return stage_of(call.target.component, call.target.method)
