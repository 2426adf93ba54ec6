"""The forwards of a group: the first rank says which, all compute their part, the first has the whole."""

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch

from interlace.engine.calls.call import ModuleCall, Target
from interlace.engine.calls.fuse import close
from interlace.engine.calls.roles import UnfusableError
from interlace.engine.calls.split import CannotSplitError
from interlace.engine.group.config import GroupConfig
from interlace.engine.group.context import ContextParallel, parallel_config
from interlace.engine.group.ranks import Ranks, kind_of
from interlace.engine.group.shares import Share, bounds_of, emptied, filled, joined, share
from interlace.engine.policy.pending import DENOISE, stage_of
from interlace.errors import EngineDeadError
from interlace.python.recent import Recent

logger = logging.getLogger("interlace.engine")


class RankModules:
    """One rank's modules, and how it runs its part of a forward."""

    def __init__(self, ranks: Ranks, modules: Mapping[str, torch.nn.Module]) -> None:
        """Raises `InvalidRequestError` for a model whose tokens can't be divided, where that is asked for."""
        self.ranks = ranks
        self.modules = {name: one for name, one in modules.items() if stage_of(name, "forward") == DENOISE}
        self._contexts: dict[str, ContextParallel] = {}
        if ranks.config.context_degree > 1:
            config = parallel_config(ranks.config, ranks.rank, ranks.device)
            self._contexts = {name: ContextParallel(name, one, config) for name, one in self.modules.items()}

    def compute(
        self, name: str, forward: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        context = self._contexts.get(name)
        return forward(*args, **kwargs) if context is None else context.run(forward, args, kwargs)


class Follower:
    """A rank that is not the first: runs what it is told until it is told to stop, or the first rank is gone."""

    def __init__(self, ranks: Ranks, modules: Mapping[str, torch.nn.Module]) -> None:
        self._worker, self._ranks = RankModules(ranks, modules), ranks

    def run(self) -> None:
        """Raises `RuntimeError` when the first rank is gone."""
        with torch.no_grad():
            while (message := self._ranks.obey()) is not None:
                self._forward(*message)

    def _forward(self, name: str, autocast: tuple[bool, torch.dtype], headers: Sequence[Any]) -> None:
        ranks = self._ranks
        mine = ranks.share_of(ranks.rank)
        if mine >= len(headers):
            return
        args, kwargs, kinds = headers[mine]
        tensors = ranks.receive_tensors(kinds, 0)
        output, error = None, None
        try:
            with _autocast(ranks.device, autocast):
                forward = self._worker.modules[name].forward
                output = self._worker.compute(name, forward, filled(args, tensors), filled(kwargs, tensors))
            output, made = emptied(output)
        except Exception as failure:
            error, made = failure, []
        made = made if ranks.answers(ranks.rank) else []
        told = (
            None if error is None else (isinstance(error, torch.OutOfMemoryError), f"{type(error).__name__}: {error}")
        )
        ranks.send((told, output if made else None, [kind_of(one) for one in made]), made, 0)


class Lead:
    """The first rank: what the executor runs modules through. Another thread's forwards don't come here.

    A kind of forward that is new is compared with running it here alone; where they disagree, it always runs alone.
    """

    def __init__(self, ranks: Ranks, modules: Mapping[str, torch.nn.Module]) -> None:
        self._worker, self._ranks = RankModules(ranks, modules), ranks
        self._proven: Recent[Hashable, None] = Recent(4096)
        self.alone: dict[str, str] = {}  # what ran here alone, and why
        self._given_up: set[str] = set()  # components that were wrong when they were divided
        self.num_forwards = 0
        self.broken: str | None = None

    @property
    def config(self) -> GroupConfig:
        return self._ranks.config

    def run(self, target: Target, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """What `target.run(*args, **kwargs)` gives. Raises `EngineDeadError` when a rank is gone, or late."""
        if target.method != "forward" or target.component not in self._worker.modules:
            return target.run(*args, **kwargs)
        if self.broken is not None:
            raise EngineDeadError(self.broken)
        try:
            call = ModuleCall(target, args, kwargs, None)
            shares = self._shares(call)
        except UnfusableError as reason:
            return self._run_alone(target, args, kwargs, str(reason))
        if shares is None:
            return target.run(*args, **kwargs)
        kind = (target.component, len(shares), *(tuple(one.kinds) for one in shares))
        return self._together(call, shares, kind)

    def close(self) -> None:
        """The others end."""
        if self.broken is None:
            with contextlib.suppress(RuntimeError):
                self._ranks.command(None)
        self._ranks.leave()

    def _shares(self, call: ModuleCall) -> list[Share] | None:
        """The parts of a forward; None where there is nothing to divide. Raises `UnfusableError`."""
        if call.unfusable:
            raise UnfusableError(call.unfusable)
        if call.target.component in self._given_up:
            return None
        bounds = bounds_of(call.rows, self.config.rows_degree)
        if len(bounds) == 1 and self.config.context_degree == 1:
            return None
        return [share(call, start, stop) for start, stop in bounds]

    def _together(self, call: ModuleCall, shares: list[Share], kind: Hashable) -> Any:
        target = call.target
        try:
            output = self._divided(target, shares)
        except CannotSplitError as reason:
            return self._run_alone(target, call.args, call.kwargs, str(reason), for_good=True)
        if kind in self._proven:
            return output
        alone = target.run(*call.args, **call.kwargs)
        if not close(output, alone):
            self._note(target, "divided among ranks and alone it gave different outputs", for_good=True)
        self._proven[kind] = None
        return alone

    def _divided(self, target: Target, shares: list[Share]) -> Any:
        """One forward of all ranks. An error of a rank is raised here once all are done; the group goes on."""
        self.num_forwards += 1
        autocast = _autocast_state(self._ranks.device)
        headers = [(one.args, one.kwargs, one.kinds) for one in shares]
        involved = [rank for rank in self._ranks.followers if self._ranks.share_of(rank) < len(shares)]
        with self._watched():
            self._ranks.command((target.component, autocast, headers))
            for rank in involved:
                self._ranks.send_tensors(shares[self._ranks.share_of(rank)].tensors, rank)
        first, failure = shares[0], None
        outputs: list[Any] = [None] * len(shares)
        try:
            args, kwargs = filled(first.args, first.tensors), filled(first.kwargs, first.tensors)
            outputs[0] = self._worker.compute(target.component, target.run, args, kwargs)
        except Exception as error:
            failure = error
        with self._watched():
            for rank in involved:
                told, output, kinds = self._ranks.receive(rank)
                tensors = self._ranks.receive_tensors(kinds, rank)
                if told is not None and failure is None:
                    failure = _error_of(rank, *told)
                if output is not None:
                    outputs[self._ranks.share_of(rank)] = filled(output, tensors)
        if failure is not None:
            raise failure
        return joined(outputs, [one.rows for one in shares])

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.broken = f"a rank of the group is gone or did not answer within {self.config.timeout_s:g} s: {error}"
            logger.error("%s", self.broken)
            raise EngineDeadError(self.broken) from error

    def _run_alone(
        self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], why: str, *, for_good: bool = False
    ) -> Any:
        self._note(target, why, for_good=for_good)
        return target.run(*args, **kwargs)

    def _note(self, target: Target, why: str, *, for_good: bool) -> None:
        label = f"{target.label} ({type(target.module).__name__})"
        if label not in self.alone:
            logger.warning("%s is not divided among the ranks: %s", label, why)
            self.alone[label] = why
        if for_good:
            self._given_up.add(target.component)


def _words(error: Exception | None) -> tuple[bool, str] | None:
    """Whether it is a lack of memory, and what it says."""
    return None if error is None else (isinstance(error, torch.OutOfMemoryError), f"{type(error).__name__}: {error}")


def _error_of(rank: int, out_of_memory: bool, text: str) -> Exception:
    kind = torch.OutOfMemoryError if out_of_memory else RuntimeError
    return kind(f"rank {rank}: {text}")


def _autocast_state(device: torch.device) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)


def _autocast(device: torch.device, state: tuple[bool, torch.dtype]) -> torch.autocast:
    enabled, dtype = state
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)
