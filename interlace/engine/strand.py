"""A request as a paused pipeline: a greenlet that runs the stock `__call__` and stops at every module call."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from greenlet import greenlet

from interlace.engine.ambient import Ambient, current_key
from interlace.engine.call import ModuleCall, Target

if TYPE_CHECKING:
    from interlace.engine.intercept import Baseline


class Finished:
    """A strand's last word: the pipeline's own output, or the exception that it raised."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error


class Strand(greenlet):
    """One pipeline call. `resume` runs it up to its next module call, which it returns, or to its end.

    All strands of an engine live in one thread; `ambient` is the torch state that each would have had alone.
    """

    def __init__(self, run: Callable[[], Any], ambient: Ambient) -> None:
        super().__init__(self._main)
        self._run = run
        self.ambient = ambient
        self.num_inline = 0
        self._stop: BaseException | None = None

    def _main(self, _first: None = None) -> Finished:
        try:
            return Finished(self._run())
        except BaseException as error:
            return Finished(error=error)

    def resume(self, value: Any = None, error: BaseException | None = None) -> ModuleCall | Finished:
        """Hand over what the pending call came to. Returns the next call, or `Finished`."""
        self.ambient.install()
        try:
            said = self.switch(value) if error is None else self.throw(error)
        finally:
            self.ambient.capture()
            torch.set_grad_enabled(False)
        assert isinstance(said, (ModuleCall, Finished))
        return said

    def stop(self, error: BaseException) -> None:
        """End a strand with `error` wherever it stands; a strand that clings to life is dropped."""
        self._stop = error
        if self and not self.dead:
            said = self.resume(error=error)
            if not isinstance(said, Finished):
                self.resume(error=error)

    def call(self, target: Target, baseline: "Baseline", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called inside the strand: pause until the engine has run `target(*args, **kwargs)`."""
        if self._stop is not None:
            raise self._stop
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or not baseline.holds():
            self.num_inline += 1
            return target.run(*args, **kwargs)
        return self.parent.switch(ModuleCall(target, args, kwargs, current_key()))
