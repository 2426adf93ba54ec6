"""A request as a paused pipeline: a greenlet that runs the stock `__call__` and stops at every module call."""

from collections.abc import Callable, Mapping

import torch
from diffusers import DiffusionPipeline
from greenlet import greenlet
from torch.overrides import TorchFunctionMode

from interlace.engine.calls.call import ModuleCall, Target
from interlace.engine.pipeline.ambient import Ambient, current_key
from interlace.engine.pipeline.variants.variant import NONE, Variant


class Finished:
    """A strand's last word: the pipeline's own output, or the exception that it raised."""

    __slots__ = ("error", "value")

    def __init__(self, value: object = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error


class Parked:
    """Said by a strand that waits for something other than a module; `when(wake)` calls `wake` once it can go on."""

    __slots__ = ("when",)

    def __init__(self, when: Callable[[Callable[[], object]], None]) -> None:
        self.when = when


class Strand(greenlet):
    """One pipeline call. `resume` runs it up to its next module call, which it returns, or to its end.

    All strands of an engine live in one thread; `ambient` is the torch state that each would have had alone, `variant`
    what its modules have that their owner's haven't, `views` what it has in the place of pipelines (by their ids).
    `targets` are the calls, by the gate's id, at which it pauses.
    """

    def __init__(
        self, run: Callable[[], object], ambient: Ambient, targets: Mapping[int, Target], variant: Variant = NONE
    ) -> None:
        super().__init__(self._main)
        self._run = run
        self.ambient = ambient
        self.targets = targets
        self.variant = variant
        self.views: dict[int, DiffusionPipeline] = {}
        self.strangers = False  # whether code of others than libraries runs in it
        self.mode: TorchFunctionMode | None = None  # on while its callback runs
        self.waiting: ModuleCall | None = None  # its call that has not run
        self.inline: set[str] = set()  # calls that ran straight through
        self._stop: BaseException | None = None

    def _main(self, _first: None = None) -> Finished:
        try:
            return Finished(self._run())
        except BaseException as error:
            return Finished(error=error)

    def resume(self, value: object = None, error: BaseException | None = None) -> ModuleCall | Parked | Finished:
        """Hand over what the pending call came to. Returns the next call, what it waits for, or `Finished`."""
        self.ambient.install()
        try:
            said = self.switch(value) if error is None else self.throw(error)
        finally:
            self.ambient.capture()
            torch.set_grad_enabled(False)
        assert isinstance(said, (ModuleCall, Parked, Finished))
        return said

    def stop(self, error: BaseException) -> None:
        """End a strand with `error` wherever it stands; a strand that clings to life is dropped."""
        self._stop = error
        if self and not self.dead:
            said = self.resume(error=error)
            if not isinstance(said, Finished):
                self.resume(error=error)

    def park(self, parked: Parked) -> None:
        """Called inside the strand: pause until what it waits for is there."""
        if self._stop is not None:
            raise self._stop
        self.parent.switch(parked)

    def call(self, target: Target, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Called inside the strand: pause until the engine has run `target(*args, **kwargs)`."""
        if self._stop is not None:
            raise self._stop
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            self.inline.add(target.label)
            return target.run(*args, **kwargs)
        if self.mode is None:
            return self.parent.switch(ModuleCall(target, args, kwargs, current_key()))
        self.mode.__exit__(None, None, None)
        try:
            return self.parent.switch(ModuleCall(target, args, kwargs, current_key()))
        finally:
            self.mode.__enter__()
