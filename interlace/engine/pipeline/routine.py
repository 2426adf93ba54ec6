"""Any callable as a pipeline: what an engine needs of it. `Engine.over` makes one.

Its work is calls of the modules that it comes with. Knows nothing of what they are.
"""

from collections.abc import Callable, Mapping
from typing import Self

import torch

from interlace.errors import InvalidRequestError


class Routine:
    """A callable and the modules whose calls may be shared between its runs, by name.

    The callable must keep what belongs to one run in local variables: whatever else it changes, all runs see. `lanes`
    names for modules the lane that they are in: lanes take turns, a forward each.
    Raises `InvalidRequestError` for what is no callable, or no module.
    """

    def __init__(
        self,
        function: Callable[..., object],
        modules: Mapping[str, torch.nn.Module],
        lanes: Mapping[str, str] | None = None,
    ) -> None:
        if not callable(function):
            raise InvalidRequestError(f"function is a {type(function).__name__}; expected a callable", "function")
        if not isinstance(modules, Mapping) or not modules:
            raise InvalidRequestError(
                f"modules is {modules!r}; expected the modules that the callable calls, by name", "modules"
            )
        for name, module in modules.items():
            if not isinstance(module, torch.nn.Module):
                got = type(module).__name__
                raise InvalidRequestError(f"modules[{name!r}] is a {got}; expected a torch.nn.Module", "modules")
        self.function, self.modules, self.lanes = function, dict(modules), dict(lanes or {})
        first = next((p for module in self.modules.values() for p in module.parameters()), torch.empty(0))
        self.device, self.dtype = first.device, first.dtype

    def __call__(self, **kwargs: object) -> object:
        return self.function(**kwargs)

    def make(self, on_step: Callable[[int, int], None], parts: object = None, views: object = None) -> Self:
        """The view that one run has: nothing of it belongs to a run."""
        return self

    def parts(self) -> dict[int, dict[str, object]]:
        """What runs have copies of: nothing."""
        return {}

    def refresh(self) -> None:
        """Its modules have changed."""
