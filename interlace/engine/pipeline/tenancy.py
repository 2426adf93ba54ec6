"""One engine's side of modules that it shares: its strands start on views, and run with their own variants on.

Knows nothing of queues and forwards: a strand in, what it says out.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline

from interlace.engine.calls.call import ModuleCall, Target
from interlace.engine.calls.rules import ONE_LENGTH
from interlace.engine.pipeline import randomness
from interlace.engine.pipeline.ambient import Ambient
from interlace.engine.pipeline.exclusive import Guard, Keepers, forget_registries
from interlace.engine.pipeline.intercept import Interception
from interlace.engine.pipeline.routine import Routine
from interlace.engine.pipeline.strand import Finished, Parked, Strand
from interlace.engine.pipeline.variants import state
from interlace.engine.pipeline.variants.outfit import Outfit
from interlace.engine.pipeline.variants.owner import shadow, unshadow
from interlace.engine.pipeline.variants.recorder import IGNORE, Change, Recorder, num_written, recording
from interlace.engine.pipeline.variants.scales import RowScales
from interlace.engine.pipeline.variants.variant import NONE, Variant
from interlace.engine.pipeline.view import Parts, ViewFactory, pipelines_of


class Tenancy:
    """Opens a pipeline for one engine. All but `parts` and `keep` is called in the engine's thread, within a step."""

    def __init__(self, pipeline: DiffusionPipeline | Routine) -> None:
        self._pipeline = pipeline
        self._strands: set[Strand] = set()
        self._outfits: dict[Hashable, Variant] = {}
        self._loose: list[list[Any]] = []  # state beside modules that a callback might write to
        self._casts: dict[Hashable, Any] = {}
        self._written = -1
        self.on_change: Callable[[], None] = lambda: None  # what is known of the modules may no longer hold
        self.on_apart: Callable[[ModuleCall, str], None] = lambda call, reason: None  # calls that variants keep apart
        self._row_scales = RowScales()
        self._told_apart: set[Target] = set()
        self.wanting = False  # a request waits for stock calls to end
        self._differs = False  # running requests and their owner may have different hooks on the modules
        self.num_kept = 0  # grows when an owner's change has added to the variants of strands
        self._interception = Interception(pipeline)
        self._targets = self._interception.targets
        views = pipeline if isinstance(pipeline, Routine) else ViewFactory(pipeline)
        self._views: dict[int, ViewFactory | Routine] = {id(pipeline): views}  # its siblings' too, by their ids
        self._keepers = Keepers()
        self._guard: Guard | None = None  # around a request that runs alone
        self.commons = self._interception.commons
        self.commons.tenants.append(self)
        self._pipelines = [] if isinstance(pipeline, Routine) else pipelines_of(pipeline)
        for one in self._pipelines:
            shadow(one, self.commons)
        randomness.wraps.open()
        self.refresh()

    @property
    def exclusive(self) -> str:
        """Why requests run one at a time now; empty when they needn't."""
        return self._keepers.reason

    @property
    def components(self) -> list[torch.nn.Module]:
        """What requests share, siblings' components too."""
        return self._interception.modules

    @property
    def busy(self) -> bool:
        """Whether requests are running."""
        return bool(self._strands)

    def adopt(self, sibling: DiffusionPipeline) -> None:
        """Another pipeline over the same modules, and perhaps some of its own: requests may run it too."""
        if id(sibling) not in self._views:
            self._interception.adopt(sibling)
            self._views[id(sibling)] = ViewFactory(sibling)
            self._written = -1

    def has(self, pipeline: DiffusionPipeline | Routine) -> bool:
        """Whether requests may run it."""
        return id(pipeline) in self._views

    def parts(self, pipeline: DiffusionPipeline | Routine | None = None) -> Parts:
        """What a request that is submitted now has copies of."""
        return self._views[id(pipeline or self._pipeline)].parts()

    def refresh(self) -> None:
        """Before a request starts: the owner may have changed everything."""
        self.commons = self._interception.commons
        self.commons.wear(NONE)
        self._interception.refresh()
        if self._keepers.reason and not self.busy:
            self._keepers.look_again()
        if self._written == num_written():
            return
        self._written = num_written()
        for views in self._views.values():
            views.refresh()
        modules = [part for part, _ in self._interception.parts.values()]
        self._keepers.look(modules)
        self._outfits.clear()
        self._row_scales = RowScales(self._interception.parts.values())
        self.on_change()
        self._loose = state.loose_of(self._interception.parts.values())

    def start(
        self,
        call: Callable[[object], object],
        ambient: Ambient,
        on_step: Callable[[int, int], None],
        parts: Parts | None = None,
        outfit: Outfit | None = None,
        *,
        strangers: bool = False,
        pipeline: DiffusionPipeline | None = None,
    ) -> Strand:
        """A strand that will run `call(view)`. `strangers`: code of others than libraries runs in it (callbacks).
        `pipeline`: a sibling, of which it is a view.

        Raises what putting on its outfit raises.
        """
        self.refresh()
        variant = NONE if outfit is None else self._variant_of(outfit, on_step)
        views = self._views[id(pipeline or self._pipeline)]
        strand = Strand(lambda: call(views.make(on_step, parts, strand.views)), ambient, self._targets, variant)
        strand.strangers = strangers or isinstance(self._pipeline, Routine)
        if not self._strands and self.exclusive:
            self._guard = self._keepers.begin()
        self._strands.add(strand)
        return strand

    def _variant_of(self, outfit: Outfit, on_step: Callable[[int, int], None]) -> Variant:
        if outfit.key not in self._outfits:
            view = self._views[id(self._pipeline)].make(on_step)
            with self._changing(strangers=True) as note:
                outfit.put_on(view)
            self._outfits[outfit.key] = note.variant
        return self._outfits[outfit.key]

    def resume(
        self, strand: Strand, value: object = None, error: BaseException | None = None
    ) -> ModuleCall | Parked | Finished:
        """Run a strand to its next call or its end, with its variant on; what it changes is its own."""
        strand.waiting = None
        self.commons.wear(strand.variant)
        if self._differs:
            forget_registries(self._interception.modules)
        with self._changing(strangers=strand.strangers) as note:
            said = strand.resume(value, error)
        strand.variant = note.variant
        if self._guard is not None:
            self._guard.glance()
        if isinstance(said, Finished):
            self._end(strand, completed=said.error is None)
        elif isinstance(said, ModuleCall):
            self.mark(strand, said)
        return said

    def stop(self, strand: Strand, error: BaseException) -> None:
        """End a strand with `error` wherever it stands."""
        self.commons.wear(strand.variant)
        with self._changing(strangers=strand.strangers):
            strand.stop(error)
        self._end(strand, completed=False)

    def wear(self, strand: Strand, calls: Sequence[ModuleCall] = ()) -> None:
        """The modules as `strand` has them, for the forward of its call; `calls` are all that share it."""
        if any(call.adapters is not None or (call.scales and not call.scales.are_owners) for call in calls):
            self.commons.dress()  # the forward tells the layers whose adapters and scales these are
        self.commons.wear(strand.variant)

    def mark(self, strand: Strand | None, call: ModuleCall) -> None:
        """What of `strand`'s variant must be equal for others to share `call`."""
        if strand is None:
            return
        component = id(call.target.module)
        call.scales = self._row_scales.of(component, strand.variant, self.commons.wardrobe)
        apart = frozenset[Hashable]() if call.scales is None else self._row_scales.keys
        call.wears, kind = strand.variant.key(component, apart)
        call.state = (num_written(), kind, call.scales is None or call.scales.are_owners)
        strand.waiting, call.views = call, strand.views
        self._say_apart(strand, call)

    def _say_apart(self, strand: Strand, call: ModuleCall) -> None:
        """Calls that would share, were it not for what their requests' own code has changed, or for their texts."""
        one_length = ONE_LENGTH.get(type(call.target.module).__name__)
        if (call.wears is None and one_length is None) or call.signature is None or call.target in self._told_apart:
            return
        for other in self._strands:
            waiting = other.waiting
            if waiting is None or other is strand:
                continue
            if one_length is not None and waiting.target is call.target and _text(waiting) != _text(call):
                self._told_apart.add(call.target)
                self.on_apart(call, one_length)
                return
            if waiting.signature == call.signature and waiting.wears != call.wears:
                self._told_apart.add(call.target)
                names = strand.variant.names_apart(other.variant, call.target.module)
                what = f" ({', '.join(names)})" if names else ""
                self.on_apart(call, f"requests have changed it in ways of their own{what}; those that did alike share")
                return

    def free_hooks(self) -> None:
        """Give back what offloading holds; its hooks are put on anew, behind the gates."""
        self.commons.wear(NONE)
        with recording(IGNORE):
            for one in self._pipelines[:1]:
                one.maybe_free_model_hooks()

    def keep(self, changes: list[Change]) -> None:
        """The owner has changed something, in whatever thread: requests that run keep what was there before."""
        for strand in self._strands:
            strand.variant = strand.variant.keeping(changes)
        self.num_kept += 1
        self._differs = True

    def leave(self) -> None:
        """In a forked child: nobody takes turns any more, and the gates let everybody through."""
        self.commons.reset()
        self._interception.close()

    def close(self) -> None:
        """The pipeline is its owner's alone again."""
        self.commons.wear(NONE)
        if self in self.commons.tenants:
            self.commons.tenants.remove(self)
            for one in self._pipelines:
                unshadow(one, self.commons)
            self._interception.close()
            randomness.wraps.close()

    @contextlib.contextmanager
    def _changing(self, *, strangers: bool) -> Iterator["_Note"]:
        """Around code of one request. `strangers`: not a library's alone, it may write to anything."""
        note = _Note(self.commons.wardrobe.worn)
        recorder = Recorder(self.commons.dress, private=True, casts=self._casts)
        if strangers:
            self._update_loose()
        try:
            with recording(recorder):
                yield note
        finally:
            changes = recorder.changes() if recorder else []
            if strangers:
                changes += self._loose_changes()
            if changes:
                self.commons.dress()
                note.variant = self.commons.wardrobe.absorb(changes)

    def _update_loose(self) -> None:
        """What the owner, or the variant that is worn, has changed of the loose state is as it was before the code."""
        for entry in self._loose:
            if not state.equal(entry[0], entry[1]):
                entry[1] = entry[0].copy()

    def _loose_changes(self) -> list[Change]:
        changed = [entry for entry in self._loose if not state.equal(entry[0], entry[1])]
        return [
            Change(place, before, roots)
            for container, copy, is_names, roots in changed
            for place, before in state.changes([(container, copy, is_names)])
        ]

    def _end(self, strand: Strand, *, completed: bool) -> None:
        self._strands.discard(strand)
        if not self._strands:
            self.commons.wear(NONE)
            self._casts.clear()
            if self._differs:
                forget_registries(self._interception.modules)
                self._differs = False
            if self._guard is not None:
                self._guard.end(completed=completed)
                self._guard = None
                self._keepers.look([part for part, _ in self._interception.parts.values()])


def _text(call: ModuleCall) -> int:
    """The length of the text that comes with a denoiser's call."""
    text = call.named.get("encoder_hidden_states")
    return text.shape[1] if isinstance(text, torch.Tensor) else 0


class _Note:
    """The variant that is on after a request's code has run."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
