"""One request's own view of a transformers model: whatever stock code remembers on the model between two forwards is
the request's, the modules that do the work are everybody's. Knows nothing of engines."""

import copy
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def shell_of(module: M, shared: Collection[nn.Module], instead: Mapping[nn.Module, nn.Module] | None = None) -> M:
    """A shallow copy of `module` and of all modules on the way to the `shared` ones, which stay what they are.

    `instead` puts another module in a shared one's place.
    """
    ids = {id(part) for part in shared}
    changed = {id(old): new for old, new in (instead or {}).items()}
    return _shell(module, ids | changed.keys(), changed)


def _shell(module: M, shared: Collection[int], instead: Mapping[int, nn.Module]) -> M:
    view = copy.copy(module)
    view.__dict__["_modules"] = children = {}
    for name, child in module._modules.items():
        if child is None or not any(id(part) in shared for part in child.modules()):
            children[name] = child
        elif id(child) in shared:
            children[name] = instead.get(id(child), child)
        else:
            children[name] = _shell(child, shared, instead)
    if getattr(module, "generation_config", None) is not None:
        view.__dict__["generation_config"] = copy.deepcopy(module.generation_config)
    return view


class LastPosition(nn.Module):
    """A head over the last position alone, [rows, 1, vocabulary]: `generate` looks at no other scores."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.head(hidden_states[:, -1:])


class Layers(nn.Module):
    """A language model that hands out the hidden states of some `layers` in every forward, so that calls of requests
    that need them and of those that don't are of one kind. Its other attributes are the model's own.

    With a `head`, the last position's scores come behind them: one shared forward a token instead of two (`Scored`).
    """

    def __init__(self, model: nn.Module, layers: tuple[int, ...], head: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.layers, self.head = model, layers, head

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.model(*args, **{**kwargs, "output_hidden_states": bool(self.layers)})
        states = tuple(output.hidden_states[layer] for layer in self.layers)
        if self.head is not None:
            states = (*states, self.head(output.last_hidden_state[:, -1:]))
        output["hidden_states"] = states
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class Scored(nn.Module):
    """One request's `Layers` with a head: keeps the scores of its last forward for what stands in the head's place."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers_ = layers
        self.in_heads_place = _Scores()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.layers_(*args, **kwargs)
        *states, self.in_heads_place.scores = output.hidden_states
        output["hidden_states"] = tuple(states)
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layers_"), name)


class _Scores(nn.Module):
    """In a head's place: what it would say of the last position, which is known."""

    scores: Tensor

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.scores


def watched(model: Any, tell: Callable[[Tensor, Any], None]) -> Any:
    """`model`, a request's own, made to call `tell(input_ids, hidden_states)` after each forward of `generate`."""
    stock = type(model)

    @functools.wraps(stock.forward)  # `generate` looks at its parameters
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = stock.forward(self, *args, **kwargs)
        ids: Tensor | None = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None:
            tell(ids, output.hidden_states)
        return output

    kept = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
    model.__class__ = type(stock.__name__, (stock,), {**kept, "forward": forward})
    return model
