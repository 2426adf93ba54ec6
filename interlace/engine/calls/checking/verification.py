"""A new kind of shared forward: run fused and, for a few of its calls, alone; refused where the two disagree."""

import contextlib
from collections.abc import Sequence
from typing import Protocol

import torch

from interlace.engine.adapters.sharing import Adapters, is_mixed
from interlace.engine.calls.cached.joined import keep
from interlace.engine.calls.cached.rows import KeptRows, row_caches
from interlace.engine.calls.cached.text import Kept
from interlace.engine.calls.call import ModuleCall
from interlace.engine.calls.checking.probes import probes
from interlace.engine.calls.checking.proofs import Proofs, is_padded
from interlace.engine.calls.counts import ForwardCounts
from interlace.engine.calls.fuse import close, differing
from interlace.engine.calls.outcome import Outcome, agree
from interlace.engine.device.waits import DeviceWait
from interlace.engine.pipeline.ambient import Ambient

_MAX_CHECKED = 4  # calls of a group that are also run alone when a kind is verified


class CallRunner(Protocol):
    """Who runs calls."""

    def fused(self, calls: Sequence[ModuleCall], ambient: Ambient, parts: int = 0) -> list[Outcome]:
        """One forward for all, their rows in `parts`; raises whatever the module raises."""

    def alone(self, call: ModuleCall, ambient: Ambient, before: Sequence[Kept | KeptRows] = ()) -> Outcome:
        """A call by itself, with what it changes as it was `before`."""

    def halved(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient], error: Exception) -> list[Outcome]:
        """Calls whose shared forward failed: in two forwards."""


class Verification:
    """For one executor. Waits for the device: this is what tells a wrong picture from a right one."""

    def __init__(self, proofs: Proofs, adapters: Adapters, counts: ForwardCounts, batch_invariant: bool) -> None:
        self._proofs, self._adapters, self._counts = proofs, adapters, counts
        self._batch_invariant = batch_invariant

    def run(
        self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient], news: frozenset[int], forwards: CallRunner
    ) -> list[Outcome]:
        """One outcome a call. `news`: the leaves that have to be seen to come out right."""
        with DeviceWait("verification"):
            before = [keep(call) for call in calls]
            try:
                outcomes = forwards.fused(calls, ambients[0])
                problem = ""
            except torch.OutOfMemoryError as error:
                return forwards.halved(calls, ambients, error) if len(calls) > 1 else [Outcome(error=error)]
            except Exception as error:
                outcomes, problem = [], f"the fused forward raised {type(error).__name__}: {error}"
            alone = {i: forwards.alone(calls[i], ambients[i], before[i]) for i in _checked(calls)}
            if not problem and not all(agree(calls[i], outcomes[i], one) for i, one in alone.items()):
                problem = "fused and alone gave different outputs"
            if problem and (in_parts := self._found_in_parts(calls, ambients[0], alone, forwards)):
                outcomes, problem = in_parts, ""
            self._counts.verified += 1
            if problem and all(a.error is not None for a in alone.values()):
                problem = ""  # every one of them fails alone too: nothing is learned about fusing
                outcomes = []
            elif not problem:
                self._proofs.right(calls, news)
                self._probe(calls, ambients, forwards)
            else:
                self._refuse(calls, problem)
            if problem or not outcomes:
                left = [i for i in range(len(calls)) if i not in alone]
                alone |= {i: forwards.alone(calls[i], ambients[i], before[i]) for i in left}
                return [alone[i] for i in range(len(calls))]
            return outcomes if self._batch_invariant else [alone.get(i, one) for i, one in enumerate(outcomes)]

    def set_apart(self, calls: Sequence[ModuleCall], problem: str) -> None:
        """Adapters that came out wrong in a forward with others keep to themselves."""
        what = self._adapters.set_apart(calls, self._proofs.mixed(calls))
        self._counts.alone(calls[0], f"{problem} with {what} mixed; each set of them runs by itself")

    def _refuse(self, calls: Sequence[ModuleCall], problem: str) -> None:
        if is_mixed(calls):
            self.set_apart(calls, problem)
            return
        self._proofs.wrong(calls)
        self._counts.alone(calls[0], f"{problem} with texts of different lengths" if is_padded(calls) else problem)

    def _probe(self, calls: Sequence[ModuleCall], ambients: Sequence[Ambient], forwards: CallRunner) -> None:
        """Prove what was equal in all calls, where comparing it before later forwards would wait for the device."""
        if all(one.device.type == "cpu" for one in calls[0].leaves if isinstance(one, torch.Tensor)):
            return
        own = [ambient.copy() for ambient in ambients]
        with contextlib.suppress(Exception):  # values that the module can't take: nothing is learned
            altered = probes(calls, self._proofs.open(calls))
            if not altered:
                return
            outcomes = forwards.fused(altered, own[0])
            if all(agree(altered[i], outcomes[i], forwards.alone(altered[i], own[i])) for i in _checked(calls)):
                self._proofs.right(altered, differing(altered))

    def _found_in_parts(
        self, calls: Sequence[ModuleCall], ambient: Ambient, alone: dict[int, Outcome], forwards: CallRunner
    ) -> list[Outcome]:
        """The outcomes of a forward with rows in parts, if that is how the module wants them; else none.

        A module that works on the halves or thirds of its batch (perturbed attention guidance) gets all first parts,
        then all second ones.
        """
        for parts in (3, 2):
            if any(call.rows % parts or row_caches(call.named) for call in calls) or any(
                one.error for one in alone.values()
            ):
                continue
            with contextlib.suppress(Exception):
                outcomes = forwards.fused(calls, ambient, parts)
                if all(close(outcomes[i].value, one.value) for i, one in alone.items()):
                    self._proofs.found_parts(calls[0], parts)
                    return outcomes
        return []


def _checked(calls: Sequence[ModuleCall]) -> list[int]:
    return sorted({round(i * (len(calls) - 1) / (_MAX_CHECKED - 1)) for i in range(_MAX_CHECKED)})
